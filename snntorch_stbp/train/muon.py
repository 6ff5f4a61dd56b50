"""Muon: steps of gradient descent whose matrices are made orthogonal.

K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024
(https://kellerjordan.github.io/posts/muon), with the step size of J. Liu et al., "Muon is scalable
for LLM training", arXiv:2502.16982, so that it takes AdamW's learning rate and weight decay.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

# Of the odd polynomial that is applied to singular values; and how often.
QUINTIC = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
RMS = 0.2  # of a step in units of the learning rate, about that of AdamW


def orthogonalize(matrices: Tensor) -> Tensor:
    """Nearly orthogonal matrices with the singular vectors of those given.

    A Newton-Schulz iteration, which needs no more precision than bfloat16.

    Args:
        matrices: `[n, rows, columns]`.

    Returns:
        Matrices of that shape and type. Their singular values lie between about 0.7 and 1.2, those
        that were tiny beside the largest ones below.
    """
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else matrices.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = QUINTIC
    for _ in range(ITERATIONS):
        square = x @ x.mT
        factor = torch.baddbmm(square, square, square, beta=b, alpha=c)
        x = torch.baddbmm(x, factor, x, beta=a)
    return x if wide else x.mT


class Muon(torch.optim.AdamW):
    """Muon for the parameter groups with `"orthogonal": True`, AdamW for the others.

    A weight `[out, in, ...]` is the matrix `[out, in * ...]`. Matrices of one shape are made
    orthogonal together.

    Args:
        groups: Parameter groups.
        lr: Learning rate of all groups.
        momentum: Of the groups of Muon, in Nesterov's form.
        dtype: In which matrices are made orthogonal.
    """

    def __init__(
        self,
        groups: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.95,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum of Muon lies in [0, 1), not {momentum!r}")
        super().__init__(groups, lr=lr)
        self.dtype = dtype
        self.defaults |= {"momentum": momentum, "orthogonal": False}
        for group in self.param_groups:
            for key in ("momentum", "orthogonal"):
                group.setdefault(key, self.defaults[key])

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; `closure` computes the loss again, where it is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        taken: list[tuple[Tensor, Tensor]] = []
        for group in self.param_groups:
            if group["orthogonal"]:
                params = [p for p in group["params"] if p.grad is not None]
                self._step_of_matrices(params, group)
                taken += [(p, p.grad) for p in params]
        for parameter, _ in taken:  # AdamW leaves out what has no gradient
            parameter.grad = None
        super().step()
        for parameter, gradient in taken:
            parameter.grad = gradient
        return loss

    def _step_of_matrices(self, params: list[Tensor], group: dict[str, Any]) -> None:
        alike: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
        for parameter in params:
            alike[tuple(parameter.shape)].append(parameter)
        momentum, lr = group["momentum"], group["lr"]
        for shape, members in alike.items():
            gradients = [p.grad for p in members if p.grad is not None]
            buffers = [self._momentum(p) for p in members]
            torch._foreach_lerp_(buffers, gradients, 1 - momentum)
            ahead = torch._foreach_lerp(gradients, buffers, momentum)
            steps = orthogonalize(torch.stack([g.flatten(1) for g in ahead]).to(self.dtype))
            rows, columns = steps.shape[1:]
            size = lr * RMS * math.sqrt(max(rows, columns))
            torch._foreach_mul_(members, 1 - lr * group["weight_decay"])
            parts = [step.to(members[0].dtype).view(shape) for step in steps.contiguous()]
            torch._foreach_add_(members, parts, alpha=-size)

    def _momentum(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
            state["step"] = torch.tensor(0.0)  # AdamW looks for it when it loads a state
        value: Tensor = state["momentum"]
        return value
