"""The sizes of everything in a network of integers, and whether its parts fit each other."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from ..errors import StbpError
from ..lowering.layers import INPUT, IntBranch, IntNetwork, IntPool, IntStage

Size = tuple[int, ...]
"""`(C, H, W)` of features, or `(K,)`."""


@dataclass(frozen=True)
class Sizes:
    """Sizes in a network.

    Attributes:
        values: Of the input and of every stage, by name.
        pooled: Behind each pooling of a branch, by stage name and number of the branch.
        sums: Of the sums of each branch, likewise.
        after: Behind each pooling of these sums, likewise.
    """

    values: dict[str, Size]
    pooled: dict[tuple[str, int], tuple[Size, ...]]
    sums: dict[tuple[str, int], Size]
    after: dict[tuple[str, int], tuple[Size, ...]]


def sizes(net: IntNetwork, image: Size) -> Sizes:
    """The sizes in `net` for images of the size `image`, `(C, H, W)`, or features `(F,)`.

    Raises:
        StbpError: If a source is no earlier stage, or sizes do not fit; it names the stage.
    """
    if net.num_steps < 1 or not net.stages:
        raise StbpError("a network of integers needs at least one stage and one time step.")
    result = Sizes({INPUT: image}, {}, {}, {})
    for stage in net.stages:
        if stage.name in result.values:
            raise StbpError(f"two stages are called '{stage.name}'.")
        if stage.neuron is None and stage is not net.stages[-1]:
            raise StbpError(f"stage '{stage.name}' has no neurons, which only the last may.")
        result.values[stage.name] = _stage(stage, result)
    last = result.values[net.stages[-1].name]
    if len(last) != 1:
        raise StbpError(f"the last stage gives {list(last)} values, not one row of classes.")
    if net.votes is not None and (net.votes < 1 or last[0] % net.votes):
        raise StbpError(f"{last[0]} neurons cannot vote for {net.votes} classes.")
    return result


def _stage(stage: IntStage, result: Sizes) -> Size:
    size: Size | None = None
    if not stage.branches:
        raise StbpError(f"stage '{stage.name}' has no branches.")
    for number, branch in enumerate(stage.branches):
        where = f"branch {number} of stage '{stage.name}'"
        if branch.source not in result.values:
            raise StbpError(f"{where} takes '{branch.source}', which is no stage before it.")
        pooled, sums = _branch(branch, result.values[branch.source], where)
        after = _pooled(branch.after, sums, where)
        last = after[-1] if after else sums
        if size is not None and last != size:
            raise StbpError(f"{where} gives {list(last)} sums, the one before it {list(size)}.")
        size, key = last, (stage.name, number)
        result.pooled[key], result.sums[key], result.after[key] = pooled, sums, after
    assert size is not None
    channels = {"bias": stage.bias, "shift": stage.shift, "unit": stage.unit}
    channels |= {f"multiplier{n}": branch.multiplier for n, branch in enumerate(stage.branches)}
    if stage.neuron is not None:
        channels |= {"beta": stage.neuron.beta, "threshold": stage.neuron.threshold}
    for name, value in channels.items():
        dims = 2 if name == "threshold" else 1
        if value.ndim != dims or value.shape[-1] not in (1, size[0]) or not value.size:
            raise StbpError(
                f"'{name}' of stage '{stage.name}' has the shape {list(value.shape)}, which does "
                f"not fit {size[0]} channels."
            )
    return size


def _branch(branch: IntBranch, size: Size, where: str) -> tuple[tuple[Size, ...], Size]:
    pooled = _pooled(branch.pools, size, where)
    size = pooled[-1] if pooled else size
    if branch.flatten:
        size = (prod(size),)
    weight = branch.weight
    if weight is None:
        return pooled, size
    shape, groups = weight.shape, branch.groups
    wanted = 4 if len(size) == 3 else 2
    if (
        weight.ndim != wanted
        or min(shape) < 1
        or (wanted == 2 and groups != 1)
        or shape[0] % groups
        or shape[1] * groups != size[0]
    ):
        raise StbpError(f"the weights {list(shape)} of {where} do not fit {list(size)} values.")
    if wanted == 2:
        return pooled, (shape[0],)
    image = padded(size[1:], branch.padding)
    spatial = windows(image, shape[2:], branch.stride, branch.dilation, where)
    return pooled, (shape[0], *spatial)


def _pooled(pools: tuple[IntPool, ...], size: Size, where: str) -> tuple[Size, ...]:
    """The sizes behind poolings that follow each other."""
    sizes: list[Size] = []
    for pool in pools:
        if len(size) != 3:
            raise StbpError(f"{where} pools {list(size)} values, which have no height and width.")
        image = padded(size[1:], pool.padding)
        size = (size[0], *windows(image, pool.size, pool.stride, pool.dilation, where))
        sizes.append(size)
    return tuple(sizes)


def padded(size: Size, padding: Size) -> Size:
    """Height and width with as much more on either side."""
    return tuple(n + 2 * p for n, p in zip(size, padding, strict=True))


def windows(size: Size, window: Size, stride: Size, dilation: Size, where: str) -> Size:
    """Windows along each dimension.

    Raises:
        StbpError: If there is none; `where` says of what.
    """
    counts = tuple(
        (n - (k - 1) * d - 1) // s + 1
        for n, k, s, d in zip(size, window, stride, dilation, strict=True)
    )
    if min(counts) < 1:
        raise StbpError(f"a window of {list(window)} of {where} does not fit {list(size)} values.")
    return counts
