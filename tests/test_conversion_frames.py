"""Frames of events: recordings bring their own number of steps where the network goes by them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import snntorch as snn
import torch
from snntorch import utils
from torch import Tensor, nn

from snntorch_stbp import convert
from snntorch_stbp.errors import StbpError, UsageError
from snntorch_stbp.export import to_qonnx
from snntorch_stbp.frozen import freeze
from snntorch_stbp.lowering import lower

from .test_conversion import Frames, brighter, convolutional, pixels


def events(steps: int, count: int = 10) -> Tensor:
    """Digits that move by a column per step, `[T, B, 1, 8, 8]`."""
    return torch.stack([pixels(count).roll(t, -1) for t in range(steps)])


def test_a_loop_over_frames_takes_as_many_as_there_are() -> None:
    model = brighter(Frames()).eval()
    net = convert(model, events(4))
    for steps in (1, 3, 7):
        assert torch.equal(net(events(steps)), model(events(steps)))
    assert net(events(7)).sum() > 0
    assert len(net(pixels(3))) == 4


def test_a_network_of_one_step_takes_as_many_frames_as_there_are() -> None:
    model = brighter(convolutional())
    net = convert(model, events(1)[0], num_steps=4)
    utils.reset(model)
    assert torch.equal(net(events(6)), torch.stack([model(frame)[0] for frame in events(6)]))
    with pytest.raises(ValueError, match=r"sequence of at least 1 step, not the shape \(0, 10"):
        net(events(1)[:0])


class Loop(nn.Module):
    """A loop over what `steps` makes of the input."""

    def __init__(self, steps: Callable[[Tensor], Iterable[Tensor]]) -> None:
        super().__init__()
        self.steps = steps
        self.fc, self.lif = nn.Linear(64, 10), snn.Leaky(0.8)

    def forward(self, x: Tensor) -> Tensor:
        mem, record = self.lif.reset_mem(), []
        for frame in self.steps(x):
            spk, mem = self.lif(self.fc(frame.flatten(1)), mem)
            record.append(spk)
        return torch.stack(record)


def test_a_loop_over_a_fixed_number_of_frames_keeps_it() -> None:
    net = convert(Loop(lambda x: (x[t] for t in range(4))), events(4))
    with pytest.raises(ValueError, match="a sequence of 4 steps, not the shape"):
        net(events(5))


@pytest.mark.parametrize("steps", [
    lambda x: x.unbind(0),
    lambda x: torch.unbind(x),
    lambda x: torch.unbind(input=x, dim=0),
    lambda x: (x[t, ...] for t in range(x.size(0))),
    lambda x: (x[t, :, :] for t in range(x.shape[0])),
    lambda x: (x[t - len(x)] for t in range(len(x))),
])  # fmt: skip
def test_frames_are_taken_in_every_usual_way(steps: Callable[[Any], Any]) -> None:
    model = brighter(Loop(steps))
    net = convert(model, events(3))
    assert torch.equal(net(events(5)), model(events(5)))
    assert net(events(5)).sum() > 0


@pytest.mark.parametrize(("steps", "message"), [
    (lambda x: x[:3], r"cannot follow a loop over what is computed: .* `for frame in x` or `x\["),
    (lambda x: x.flip(0), "cannot follow a loop over what is computed"),
    (lambda x: (x[-t] for t in range(1, 5)), "'lif' gets at step 1 what belongs to step 4: the fr"),
    (lambda x: (x[t] for t in (0, 2)), "'lif' gets at step 2 what belongs to step 3: the frames"),
    (lambda x: (x[t] for t in range(3)), "the network takes 3 frames of the example, which has 4"),
    (lambda x: (x[:, t] for t in range(3)), r"by the time step alone, x\[step\], of a seq"),
])  # fmt: skip
def test_other_frames_are_refused(steps: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(StbpError, match=message):
        convert(Loop(steps), events(4))


def test_a_sequence_as_the_example_of_a_network_of_one_step_is_named() -> None:
    """A linear layer would take it for a batch of matrices; of images, a convolution says so."""
    neuron = snn.Leaky(0.5, init_hidden=True)
    dense = nn.Sequential(nn.Linear(64, 10), neuron)
    with pytest.raises(UsageError, match=r"shape \(5, 8, 64\), would be a batch .* '0' takes row"):
        convert(dense, torch.rand(5, 8, 64), num_steps=5)
    assert convert(dense, torch.rand(3, 8, 64), num_steps=5)(torch.rand(3, 8, 64)).dim() == 4
    message = r"'0' \(Conv2d\) cannot take .* shape \(5, 10, 1, 8, 8\) .* one step, example\[0\]\.$"
    with pytest.raises(StbpError, match=message):
        convert(convolutional(), events(5), num_steps=5)
    message = r"'0' \(Conv2d\) cannot take .* shape \(4, 10, 1, 8, 8\) .* \[4, 10, 1, 8, 8\]\.$"
    with pytest.raises(StbpError, match=message):
        convert(convolutional(), events(4), num_steps=5)


def test_exports_are_of_as_many_steps_as_the_frames(tmp_path: Path) -> None:
    net = convert(brighter(convolutional()), events(1)[0], num_steps=4).eval()
    for name, samples in (("6", events(6)), ("4", events(1)[0])):
        done = to_qonnx(net, samples, tmp_path / f"{name}.onnx", vectors=1)
        assert (done.agreement.samples, done.onnxruntime.samples) == (1, 10)
    assert freeze(net).num_steps == 4
    assert freeze(net, num_steps=6)(events(6)).shape == (6, 10, 10)
    assert len(lower(net, form="simple", samples=events(6))(events(6))) == 6


@pytest.mark.parametrize("steps", [2, 9])
def test_still_images_are_exported_at_any_number_of_steps(tmp_path: Path, steps: int) -> None:
    """Of a network that takes recordings of any length, the coding's own number is no limit."""
    net = convert(brighter(Frames()).eval(), events(4))
    images, frames = pixels(6), pixels(6).expand(steps, -1, -1, -1, -1)
    frozen = freeze(net, num_steps=steps)
    assert torch.equal(frozen(images), frozen(frames))
    to_qonnx(frozen, images, tmp_path / "frozen.onnx", vectors=1)
    fixed = lower(net, form="simple", samples=images, num_steps=steps)
    assert fixed.changed == frozen.reading.changed(fixed, frames)
    to_qonnx(fixed, images, tmp_path / "fixed.onnx", vectors=1)


def test_a_loop_with_a_limit_keeps_the_number_of_its_steps() -> None:
    net = convert(Loop(lambda x: (x[t] for t in range(min(x.size(0), 8)))), events(4))
    with pytest.raises(ValueError, match="a sequence of 4 steps, not the shape"):
        net(events(12))


def test_a_loop_of_one_step() -> None:
    model = Loop(lambda x: (x for _ in range(1)))
    for given in ({}, {"num_steps": 1}):
        net = convert(model.eval(), pixels(6), **given)
        assert torch.equal(net(pixels(6)), model(pixels(6)))
        assert net(pixels(6)).shape == (1, 6, 10)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch means to drop scripts
def test_a_scripted_module_is_named() -> None:
    scripted = torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
    with pytest.raises(StbpError, match="give the module that was scripted or traced"):
        convert(scripted, torch.rand(2, 4), num_steps=2)
