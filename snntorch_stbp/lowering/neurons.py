"""A layer of neurons on integers, in torch: from the sums of its branches to spikes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from .. import kernels
from ..kernels import integers
from .layers import IntStage

BLOCK = 131072  # neurons of a block, which stays in the cache through all steps


class IntegerCurrent(nn.Module):
    """The input current of a stage: its branches' sums, scaled, added up and rounded.

    Args:
        stage: Its integers.
        dtype: Floats wide enough to hold every intermediate exactly.
    """

    tables: Tensor

    def __init__(self, stage: IntStage, dtype: torch.dtype) -> None:
        super().__init__()
        self.rounds = bool(stage.shift.any())
        self.top = 0 if stage.act_bits is None else 2 ** (stage.act_bits - 1)
        multipliers = [branch.multiplier << stage.up for branch in stage.branches]
        # Exact: a power of two.
        rows = [stage.bias, np.int64(1) << stage.shift >> 1, np.exp2(-stage.shift), *multipliers]
        self.register_buffer("tables", _tables(rows, _channels(stage), dtype), persistent=False)

    def forward(self, sums: Sequence[Tensor]) -> Tensor:
        """Currents `[T, B, C, ...]` of sums `[T, B, C, ...]` of each branch."""
        shape = (-1, *[1] * (sums[0].dim() - 3))
        bias, half, unit, *multipliers = (row.view(shape) for row in self.tables)
        y = bias
        for a, multiplier in zip(sums, multipliers, strict=True):
            y = y + a * multiplier
        if self.rounds:
            y = torch.floor((y + half) * unit)
        return y.clamp(-self.top, self.top - 1) if self.top else y


class IntegerNeurons(nn.Module):
    """A layer of neurons over a sequence; a module without state, so that hooks can watch it.

    On a CPU it is one operation, where there is a compiler (`kernels/integers.py`).

    Args:
        stage: Its integers.
        dtype: Floats wide enough to hold every intermediate exactly.
    """

    decay: Tensor
    thresholds: Tensor

    def __init__(self, stage: IntStage, dtype: torch.dtype) -> None:
        super().__init__()
        assert stage.neuron is not None
        self.neuron, channels = stage.neuron, _channels(stage)
        self.current = IntegerCurrent(stage, dtype)
        decay = self.neuron.beta / 2**self.neuron.leak  # exact: a power of two
        self.register_buffer("decay", _tables([decay], channels, dtype)[0], persistent=False)
        thresholds = _tables(list(self.neuron.threshold), channels, dtype)
        self.register_buffer("thresholds", thresholds, persistent=False)
        bits = self.neuron.membrane_bits
        self.rule = integers.IntegerRule(
            reset=self.neuron.reset,
            ages=len(self.neuron.threshold),
            rounds=self.current.rounds,
            act_top=self.current.top,
            lift=2**self.neuron.lift,
            grid=2**self.neuron.coarse,
            levels=0 if bits is None else 2 ** (bits - 1),
            leaks=self.neuron.leak > 0,
            leak_half=0.5 if self.neuron.rounds else 0.0,
        )

    def forward(
        self, sums: Sequence[Tensor], steps: int, membranes: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        """Spikes and membrane potentials `[T, B, C, ...]`.

        Args:
            sums: Integers `[T, B, C, ...]` of each branch, or `[1, B, C, ...]` for all steps.
            steps: Time steps `T`.
            membranes: Whether membrane potentials are wanted.
        """
        if kernels.compiles() and integers.covers(sums, self.rule):
            bias, half, unit, *multipliers = self.current.tables
            rows = [bias, half, unit, self.decay, *multipliers, *self.thresholds]
            return integers.fire(sums, torch.stack(rows), self.rule, steps, membranes)
        x = self.current(sums) * 2**self.neuron.lift
        x = x.expand(steps, *x.shape[1:])
        spikes = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        potentials = torch.empty_like(spikes)
        samples = max(1, BLOCK // max(1, x[0, :1].numel())) if x.is_cpu else len(x[0])
        for part in zip(*(v.split(samples, 1) for v in (x, spikes, potentials)), strict=True):
            self._run(*part)
        return spikes, potentials

    def _run(self, x: Tensor, spikes: Tensor, membranes: Tensor) -> None:
        """Write spikes and membrane potentials of a block of samples."""
        neuron, rule, shape = self.neuron, self.rule, (-1, *[1] * (x.dim() - 3))
        rows = [row.view(shape) for row in self.thresholds]
        decay = self.decay.view(shape)
        v, age = torch.zeros_like(x[0]), torch.zeros_like(x[0])
        for t, (o, u) in enumerate(zip(spikes.unbind(0), membranes.unbind(0), strict=True)):
            torch.add(v, x[t], out=u)
            if rule.levels:
                u.add_(rule.grid // 2).div_(rule.grid).floor_()
                u.clamp_(-rule.levels, rule.levels - 1).mul_(rule.grid)
            torch.gt(u, self._theta(rows, t, age), out=o)
            if t == len(x) - 1:
                break  # nobody asks for the state behind the last step
            if neuron.reset == "subtract":
                torch.sub(u, o * rows[0], out=v).mul_(decay)
            else:
                torch.mul(u, decay, out=v)
            if rule.leaks:
                v.add_(rule.leak_half).floor_()
            if neuron.reset == "delayed":
                v.sub_(o * rows[0])
            if neuron.reset == "zero":
                v.masked_fill_(fired := o.bool(), 0)
                age.add_(1).masked_fill_(fired, 0)

    def _theta(self, rows: list[Tensor], t: int, age: Tensor) -> Tensor:
        """The threshold of step `t`; after `t` steps no neuron is older than `t`."""
        if self.neuron.reset != "zero":
            return rows[min(t, len(rows) - 1)]
        theta = rows[0]
        for older, row in enumerate(rows[1 : t + 1], 1):
            theta = torch.where(age >= older, row, theta)
        return theta


def _channels(stage: IntStage) -> int:
    """Channels that a stage's numbers tell apart: all of them, or 1."""
    values = [stage.bias, stage.shift, *(branch.multiplier for branch in stage.branches)]
    if stage.neuron is not None:
        values += [stage.neuron.beta, *stage.neuron.threshold]
    return max(len(value) for value in values)


def _tables(rows: Sequence[np.ndarray], channels: int, dtype: torch.dtype) -> Tensor:
    """Numbers per channel, each `[C]` or `[1]`, as `[rows, C]`."""
    table = np.stack([np.broadcast_to(r, channels) for r in rows])
    return torch.tensor(table, dtype=dtype, device="cpu")
