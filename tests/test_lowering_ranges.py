"""The ranges of the fixed-point network's numbers: never left, and reached, in every backend."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import snntorch_stbp as stbp
from snntorch_stbp import kernels
from snntorch_stbp.errors import StbpError
from snntorch_stbp.lowering import FixedPointNet, lower, reference
from snntorch_stbp.lowering.aware import FixedPointAware
from snntorch_stbp.lowering.layers import IntBranch, IntNetwork, IntNeuron, IntStage
from snntorch_stbp.lowering.ranges import ranges, stage_range, width

from .nets import make


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_backends_agree_and_stay_in_range_on_adversarial_numbers(data: st.DataObject) -> None:
    """Random integers of full width: extreme weights, membranes on the threshold, all resets."""
    whole = st.integers
    channels, features = data.draw(whole(1, 4)), data.draw(whole(1, 6))
    steps, ages = data.draw(whole(1, 4)), data.draw(whole(1, 3))

    def array(low: int, high: int, *shape: int) -> np.ndarray:
        size = int(np.prod(shape))
        values = data.draw(st.lists(whole(low, high), min_size=size, max_size=size))
        return np.array(values, np.int64).reshape(shape)

    top = data.draw(st.sampled_from([1, 7, 127]))
    reset = data.draw(st.sampled_from(["zero", "subtract", "delayed", "none"]))
    shifts = data.draw(st.booleans())
    neuron = IntNeuron(
        beta=array(0, 4, data.draw(st.sampled_from([1, channels]))),
        leak=2,
        rounds=data.draw(st.booleans()),
        threshold=array(-40, 400, ages if reset == "zero" else 1, channels),
        reset=reset,
        membrane_bits=data.draw(st.sampled_from([None, 4])),
        coarse=data.draw(whole(0, 2)),
    )
    weight = array(-top, top, channels, features)
    pixels = array(0, 255, steps, 5, features)
    stage = IntStage(
        "neurons", (IntBranch("input", "layer", array(-9, 9, channels), weight, 8),),
        data.draw(whole(0, 3)), array(-99, 99, channels),
        array(0, 5, channels) if shifts else np.zeros(channels, np.int64),
        data.draw(st.sampled_from([None, 8])) if shifts else None, neuron, np.ones(1), True,
    )  # fmt: skip
    if data.draw(st.booleans()):  # a threshold that a membrane meets
        x = reference.current(stage, [pixels @ weight.T])
        meets = replace(neuron, threshold=np.broadcast_to(x[0, 0], neuron.threshold.shape))
        stage = replace(stage, neuron=meets)
    readout = IntStage(
        "readout", (IntBranch("neurons", "last", array(-9, 9, channels), None),), 0,
        array(-9, 9, channels), np.zeros(channels, np.int64), None, None, np.ones(1), True,
    )  # fmt: skip
    net = IntNetwork((stage, readout), steps, 8, 1.0, None, "exact")
    expected: dict[str, np.ndarray] = {}
    record: dict[str, torch.Tensor] = {}
    frames = pixels.reshape(steps, 5, features, 1, 1)
    flat = replace(stage, branches=(replace(stage.branches[0], flatten=True),))
    net = replace(net, stages=(flat, readout))
    fixed = FixedPointNet(net)
    total = reference.run(net, frames, expected)
    for backend in ("compiled", "fused"):
        with kernels.backend(backend):
            scores = fixed(torch.tensor(frames, dtype=torch.float64), record).sum(0)
        for key, value in record.items():
            assert np.array_equal(value.numpy(), expected[key]), (backend, key)
        assert np.array_equal(scores.numpy(), total)
    reach = ranges(net)["neurons"]
    for key, allowed in (("0", reach.accumulators[0]), ("membrane", reach.membrane)):
        seen = expected[f"neurons/{key}"]
        assert allowed.low <= seen.min()
        assert seen.max() <= allowed.high


def test_a_worst_case_range_is_reached() -> None:
    """All positive weights on and all negative ones off gives the largest sum."""
    fixed = lower(make("mnistnet", bits=4))
    stage = fixed.integers.stages[-1]
    weight = stage.branches[0].weight
    assert weight is not None
    span = fixed.ranges[stage.name].accumulators[0]
    sums = np.stack([(weight * (weight[c] > 0)).sum(1) for c in range(len(weight))])
    assert sums.max() == span.high
    assert width(span.low, span.high) == span.bits


def test_a_rounded_current_bounds_the_membrane_as_it_is_rounded() -> None:
    one, zero = np.ones(1, np.int64), np.zeros(1, np.int64)
    neuron = IntNeuron(beta=zero, leak=2, rounds=False, threshold=zero[None])
    branch = IntBranch("input", "layer", zero, np.zeros((1, 1), np.int64), 8, flatten=True)
    stage = IntStage("neurons", (branch,), 0, -one, one, None, neuron, np.ones(1), True)
    frames = np.zeros((1, 1, 1, 1, 1), np.int64)
    record: dict[str, np.ndarray] = {}
    reference.run(IntNetwork((stage,), 1, 8, 1.0, None, "exact"), frames, record)
    reach = ranges(IntNetwork((stage,), 1, 8, 1.0, None, "exact"))["neurons"]
    assert (reach.membrane.low, reach.membrane.high) == (0, 0)  # (-1 + 1) >> 1
    assert (record["neurons/membrane"] == 0).all()


@pytest.mark.parametrize(
    ("steps", "beta"), [(12, 0.25), (33, 0.25), (65, 0.5), (64, 0.5), (9, 255 / 256), (1000, 0.5)]
)
def test_steps_that_the_bits_do_not_hold_are_refused(steps: int, beta: float) -> None:
    """However many: a proof in 64 bits would start again from 0."""
    precision = stbp.Precision(1)
    net = nn.Sequential(
        stbp.DirectCoding(steps),
        stbp.TimeDistributed(precision.conv2d(1, 1, 3, bias=False)),
        stbp.Leaky(beta, 0.05),
        stbp.TimeDistributed(nn.Sequential(nn.Flatten(), precision.linear(4, 3))),
        stbp.Leaky(beta, 0.05),
    ).eval()
    with pytest.raises(StbpError, match=r"'2' needs .*bits.*: use the simple form .*fewer time"):
        lower(net)
    with pytest.raises(StbpError, match=r"'2' needs .*bits"):
        FixedPointAware(net)(torch.rand(2, 1, 4, 4))
    lower(net, form="simple", samples=torch.rand(8, 1, 4, 4))


def test_ranges_are_whole_numbers_of_any_width() -> None:
    """Each of them as Python's integers say, far beyond 64 bits."""
    steps, up, beta, leak = 40, 60, 255, 8
    weight, factor = np.array([[127, -128]]), np.array([2**20])
    neuron = IntNeuron(np.array([beta]), leak, False, np.array([[2**50]]), "none")
    stage = IntStage(
        "neurons", (IntBranch("input", "layer", factor, weight, 8),), up, np.array([7]),
        np.zeros(1, np.int64), None, neuron, np.ones(1), True,
    )  # fmt: skip
    found = stage_range(stage, steps, 8)
    low, high = ((w * 255 * 2**20 << up) + 7 for w in (-128, 127))
    assert (found.current.low, found.current.high) == (low, high)
    least = most = 0
    for _ in range(steps):
        least, most = (min(least, 0) * beta >> leak) + low, (max(most, 0) * beta >> leak) + high
    assert (found.membrane.low, found.membrane.high) == (least, most)
    assert found.largest >= -least * beta > 2**100


@pytest.mark.parametrize("bias", [-9, 0, 9])
def test_a_readout_stays_within_its_range_at_every_step(bias: int) -> None:
    """Also where a bias is larger than all that is added to it, and the sum only grows."""
    branch = IntBranch("input", "layer", np.ones(1, np.int64), np.array([[2, -1]]), 3)
    stage = IntStage(
        "head", (branch,), 0, np.array([bias]), np.zeros(1, np.int64), None, None, np.ones(1), True
    )
    for steps in range(1, 6):
        reach = stage_range(stage, steps, 1).membrane
        for x in range(4):
            sums = np.cumsum(np.full(steps, 2 * (x & 1) - (x >> 1) + bias))
            assert reach.low <= sums.min()
            assert sums.max() <= reach.high
        assert (reach.low, reach.high) == (
            min((bias - 1) * t for t in (1, steps)), max((bias + 2) * t for t in (1, steps))
        )  # fmt: skip
