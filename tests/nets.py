"""Small networks with lived-in statistics, and integer arithmetic to check them against."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import nn

from snntorch_stbp import DirectCoding, Leaky, Precision, TDBatchNorm2d, TimeDistributed, zoo
from snntorch_stbp.frozen import FrozenNet
from snntorch_stbp.frozen.inhibition import FrozenInhibition
from snntorch_stbp.zoo.parts import Parts
from snntorch_stbp.zoo.resnet import Layout, ResNet


def digits(count: int, size: int = 8) -> torch.Tensor:
    """Images `[N, 1, size, size]` of 8 bits, from scikit-learn's digits."""
    images = torch.tensor(_images()[:count], dtype=torch.float32).unsqueeze(1) / 16
    if size != 8:
        images = nn.functional.interpolate(images, size=(size, size), mode="bilinear")
    return (images * 255).round() / 255


@cache
def _images() -> np.ndarray[Any, Any]:
    from sklearn.datasets import load_digits

    return load_digits().images


def make(name: str, size: int = 8, bits: Any = 4, **options: Any) -> nn.Module:
    """A network of the zoo, its batch normalisation fed with digits; `reset` is a `reset_rule`."""
    reset = options.pop("reset", "zero")
    precision = {k: options.pop(k) for k in ("act_bits", "membrane_bits", "scale") if k in options}
    if name == "resnet":
        net = small_resnet(Precision(bits, **precision))
    elif name.startswith("padded"):
        kind = nn.AvgPool2d if name == "padded averages" else nn.MaxPool2d
        padding = int(name == "padded currents")
        net = padded_pools(Precision(bits, **precision), kind, padding)
    elif name in ("pooled", "averaged"):
        kind = nn.MaxPool2d if name == "pooled" else nn.AvgPool2d
        net = pooled_currents(Precision(bits, **precision), kind)
    else:
        net = zoo.create(
            name, in_channels=1, image_size=size, precision=Precision(bits, **precision), **options
        )
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None  # the average over the batches that follow
        if isinstance(module, Leaky):
            for key, value in reset_options(reset).items():
                setattr(module, key, value)
    with torch.no_grad():
        for _ in range(4):
            net(digits(64, size))
    return net.eval()


def pooled_currents(precision: Precision, pool: type[nn.Module]) -> nn.Module:
    """Currents that are pooled in front of neurons, as in snnTorch's; gains of both signs."""
    net = nn.Sequential(
        precision.input_quant(),
        DirectCoding(3),
        TimeDistributed(precision.conv2d(1, 6, 3, padding=1, bias=False), TDBatchNorm2d(6)),
        TimeDistributed(pool(2)),
        Leaky(0.5),
        TimeDistributed(precision.conv2d(6, 8, 3, padding=1)),
        TimeDistributed(pool(2)),
        Leaky(0.5),
        TimeDistributed(nn.Sequential(nn.Flatten(), precision.linear(32, 10))),
    )
    with torch.no_grad():
        net[2].norm.weight[::2] *= -1
        net[5].layer.weight *= 2
    return net


def padded_pools(precision: Precision, kind: type[nn.Module], padding: int) -> nn.Module:
    """Poolings of spikes with padding, and of currents; normalisation behind an average."""
    net = nn.Sequential(
        precision.input_quant(),
        DirectCoding(2),
        TimeDistributed(precision.conv2d(1, 6, 3, padding=1, bias=False), TDBatchNorm2d(6)),
        Leaky(0.5, threshold=0.4),
        TimeDistributed(kind(3, 2, padding=1)),
        TimeDistributed(precision.conv2d(6, 8, 3, padding=1), TDBatchNorm2d(8)),
        TimeDistributed(kind(2, padding=padding)),
        Leaky(0.5, threshold=0.4),
        TimeDistributed(nn.AvgPool2d(3, (2, 1), padding=1)),
        TimeDistributed(precision.conv2d(8, 8, 3, padding=1)),
        TimeDistributed(nn.AvgPool2d((1, 2))),
        TDBatchNorm2d(8),
        Leaky(0.5, threshold=0.4),
        TimeDistributed(nn.Sequential(nn.Flatten(), precision.linear(8 + 8 * padding, 10))),
    )
    with torch.no_grad():
        net[5].norm.weight[::2] *= -1  # else padding with zeros would do
    return net


def small_resnet(precision: Precision) -> nn.Module:
    """An identity shortcut, a strided block with a convolution in its shortcut, a pooled head."""
    parts = Parts(
        num_classes=10, in_channels=1, image_size=(8, 8), num_steps=2, precision=precision,
        beta=0.25, threshold=0.4, spike_grad=None, readout="current",
    )  # fmt: skip
    return ResNet(parts, Layout((4, 3, 1), ((4, 1, 1), (8, 1, 2)), 12))


def reset_options(rule: str) -> dict[str, Any]:
    """The arguments of a neuron whose `reset_rule` it is."""
    if rule == "delayed":
        return {"reset_mechanism": "subtract", "reset_delay": True}
    return {"reset_mechanism": rule}


def integers(net: FrozenNet, images: torch.Tensor) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Spikes `[T, N, ...]` of every stage, and the summed currents or spikes of the last one.

    Integers of 64 bits throughout, shifts for scalings, plain sums for convolutions.
    """
    values = {"input": [net.quantize_input(images).numpy().astype(np.int64)] * net.num_steps}
    last: list[np.ndarray] = []
    spikes: dict[str, np.ndarray] = {}
    for stage in net.stages:
        shift = stage.current.fraction.numpy().astype(np.int64) + 1
        bias = exact(stage.current.bias.numpy() * 2.0**shift)
        currents = []
        for t in range(net.num_steps):
            total: Any = 0
            for branch, frozen in zip(stage.stage.branches, stage.current.branches, strict=True):
                summed = accumulate(branch, frozen.weight, values[branch.value][t])
                factor = exact(frozen.multiplier.numpy() * 2.0**shift)
                total = total + summed * spread(factor, summed)
            currents.append(total + spread(bias, total))
        if stage.neuron is None:
            digits_kept = stage.readout_digits
            last = [
                nearest(c, spread(shift, c) - digits_kept) * 2.0**-digits_kept for c in currents
            ]
            continue
        neuron = stage.neuron
        top, k = 2 ** (neuron.act_bits - 1), neuron.beta_digits
        theta = exact(neuron.threshold.numpy())
        beta = exact(neuron.beta.numpy() * 2.0**k)
        state: Any = 0
        record = []
        for current in currents:
            x = np.clip(nearest(current, spread(shift, current)), -top, top - 1)
            u = x * 2**neuron.lift + state
            if neuron.membrane_bits is not None:
                levels, grid = 2 ** (neuron.membrane_bits - 1), 2**neuron.coarse
                rounded = (2 * u + (neuron.coarse > 0) + grid) // (2 * grid)
                u = np.clip(rounded, -levels, levels - 1) * grid
            o = (u > spread(theta, u)).astype(np.int64)
            by = o * spread(theta, u)
            kept = {"zero": u * (1 - o), "subtract": u - by}.get(neuron.reset, u)
            state = (2 * spread(beta, u) * kept + 1 + 2**k) // 2 ** (k + 1)
            state = state - by * (neuron.reset == "delayed")
            record.append(o)
        values[stage.stage.name] = record
        if stage.inhibition is not None:
            values[f"{stage.stage.name}/inhibition"] = subtrahend(stage.inhibition, record)
        spikes[stage.stage.name] = np.stack(record)
        last = record
    return spikes, np.sum(last, axis=0)


def subtrahend(numbers: FrozenInhibition, spikes: list[np.ndarray]) -> list[np.ndarray]:
    """What a NeuNorm subtracts from the spikes of each step."""
    k, shift = numbers.decay_digits, numbers.fraction + 1
    decay, factor = (
        int(numbers.decay * 2**k),
        exact(numbers.multiplier.detach().numpy() * 2.0**shift),
    )
    count: Any = 0
    record = []
    for t, o in enumerate(spikes):
        kept = (2 * decay * count + 1 + 2**k) // 2 ** (k + 1) if t else 0
        count = kept + numbers.spike * o.sum(1, keepdims=True)
        assert count.max() <= numbers.count
        top = 2 ** (numbers.bits - 1)
        record.append(np.clip(nearest(factor * count + 1, shift), -top, top - 1))
    return record


def exact(value: np.ndarray) -> np.ndarray:
    """Floats that are integers, as such."""
    assert np.array_equal(value, np.rint(value))
    return value.astype(np.int64)


def nearest(value: np.ndarray, shift: Any) -> np.ndarray:
    """`value / 2^shift`, rounded; refuses ties, on which runtimes may disagree."""
    shift = np.broadcast_to(shift, value.shape)
    positive = np.maximum(shift, 1)
    assert not np.any((value % 2**positive == 2 ** (positive - 1)) & (shift > 0)), "a tie"
    down = (value + 2 ** (positive - 1)) // 2**positive
    return np.where(shift > 0, down, value * 2 ** np.maximum(-shift, 0))


def spread(value: np.ndarray, like: np.ndarray) -> np.ndarray:
    return value.reshape(1, -1, *[1] * (like.ndim - 2))


def accumulate(branch: Any, weight: torch.Tensor | None, x: np.ndarray) -> np.ndarray:
    for pool in branch.pools:
        x = pooled(pool, x)
    if branch.flatten:
        x = x.reshape(len(x), -1)
    if weight is None:
        return x
    x = product(branch, weight, x)
    for pool in branch.after:
        x = pooled(pool, x)
    return x


def pooled(pool: Any, x: np.ndarray) -> np.ndarray:
    size, stride, padding, average = (
        np.broadcast_to(pool.kernel_size, 2), np.broadcast_to(pool.stride, 2),
        np.broadcast_to(pool.padding, 2), isinstance(pool, nn.AvgPool2d),
    )  # fmt: skip
    around = ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2)
    x = np.pad(x, around, constant_values=0 if average else np.iinfo(np.int64).min)
    windows = np.lib.stride_tricks.sliding_window_view(x, size, (2, 3))
    windows = windows[:, :, :: stride[0], :: stride[1]]
    result: np.ndarray = (np.sum if average else np.max)(windows, (4, 5))
    return result


def product(branch: Any, weight: torch.Tensor, x: np.ndarray) -> np.ndarray:
    w = exact(weight.detach().numpy())
    if w.ndim == 2:
        return x @ w.T
    stride, padding = branch.layer.stride, branch.layer.padding
    x = np.pad(x, ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2))
    windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[2:], (2, 3))
    windows = windows[:, :, :: stride[0], :: stride[1]]
    return np.einsum("nchwij,ocij->nohw", windows, w)


class Shortcuts(nn.Module):
    """Names that are no identifiers, a pooled shortcut without weights, a neuron used twice."""

    def __init__(self, **neuron: Any) -> None:
        super().__init__()
        self.coding = DirectCoding(3)
        self.block = nn.Sequential(TimeDistributed(nn.Conv2d(1, 4, 3, padding=1)))
        self.neuron = Leaky(**neuron)
        self.down = TimeDistributed(nn.Conv2d(4, 4, 3, 2, 2, dilation=2))
        self.pool = TimeDistributed(nn.AvgPool2d(2))
        self.head = TimeDistributed(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spikes = self.neuron(self.block(self.coding(x)))
        return self.head(self.neuron(self.down(spikes) + self.pool(spikes)))
