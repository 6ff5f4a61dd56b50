"""What is known of parameters without looking at them: neurons notice every change of theirs."""

import copy

import pytest
import torch

import snntorch_stbp as stbp
from snntorch_stbp.looking import Looked, is_one, within_unit


@pytest.mark.parametrize(
    ("values", "one", "unit"),
    [
        ([1.0, 1.0], True, True),
        ([0.0, 1.0], False, True),
        ([1.0, 1.1], False, False),
        ([-0.1, 1.0], False, False),
        ([float("nan"), 1.0], False, False),
    ],
)
def test_what_is_asked_of_numbers(values, one, unit):
    """Numbers that are none lie nowhere."""
    assert is_one(torch.tensor(values)) is one
    assert within_unit(torch.tensor(values)) is unit


def test_a_look_is_taken_once_and_again_after_a_change():
    """In place or by another tensor; never at what is learned."""
    looks = []
    looked = Looked(lambda x: looks.append(1) or is_one(x))
    x = torch.ones(3)
    assert [looked(x), looked(x), len(looks)] == [True, True, 1]
    x[1] = 2
    assert [looked(x), looked(x), len(looks)] == [False, False, 2]
    assert looked(torch.ones(3))
    assert len(looks) == 3
    assert not looked(torch.ones(3).requires_grad_())
    assert len(looks) == 3
    with torch.inference_mode():
        assert not looked(torch.ones(3))
        assert len(looks) == 3


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("inside", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("outside", [-0.5, 1.5])
def test_a_decay_that_leaves_the_unit_interval_is_clamped(inside, outside, learned):
    """Whether it was there at first or came to be there, by whichever way; copies, too."""
    x = torch.linspace(-1, 1, 60).reshape(6, 2, 5)
    expected = stbp.Leaky(min(max(outside, 0.0), 1.0), output=True)(x)
    neuron = stbp.Leaky(inside, learn_beta=learned, output=True)
    before = [r.detach() for r in neuron(x)]
    twin = copy.deepcopy(neuron)
    with torch.no_grad():
        neuron.beta.fill_(outside)
    state = {**twin.state_dict(), "beta": torch.tensor(outside)}
    other = stbp.Leaky(inside, learn_beta=learned, output=True)
    other(x)
    other.load_state_dict(state)
    for changed in (neuron, other, copy.deepcopy(neuron)):
        for result, wanted in zip(changed(x), expected, strict=True):
            assert torch.equal(result, wanted)
    for result, wanted in zip(twin(x), before, strict=True):
        assert torch.equal(result, wanted)


def test_a_factor_of_spikes_that_changes_is_applied():
    """Graded spikes, set after a pass with plain ones."""
    x = torch.rand(3, 4, 5)
    neuron = stbp.Leaky()
    spikes = neuron(x)
    neuron.graded_spikes_factor.fill_(0.5)
    assert torch.equal(neuron(x), spikes / 2)
