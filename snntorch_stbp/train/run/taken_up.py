"""What a resumed run takes up of a checkpoint, looked at before anything computes with it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

FIGURES = {
    "epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "seconds", "best",
}  # fmt: skip
"""What is taken up again of each epoch."""


def check_position(state: dict[str, Any]) -> None:
    """Make sure that the state says how far the run came, and what came of each epoch.

    Raises:
        ValueError: If it does not (as `TypeError`).
        LookupError: If an entry is missing.
    """
    epoch, step, history = state["epoch"], state["step"], state["history"]
    if not all(_is_whole(value) and value >= 0 for value in (epoch, step, state["steps"])):
        raise ValueError("the position is none")
    if not (step < max(state["steps"], 1) and _is_number(state["seconds"])):
        raise ValueError("the position is none")
    if not isinstance(history, list) or len(history) != epoch - 1:
        raise ValueError("the history is not that of the epochs so far")
    for number, row in enumerate(history, start=1):
        if row["epoch"] != number or not all(_is_number(row[name]) for name in FIGURES):
            raise ValueError("the history is not that of the epochs so far")
    sums = [process["sums"] for process in state["processes"]]
    if not sums or any(len(each) != 3 or not all(map(_is_number, each)) for each in sums):
        raise ValueError("the sums of the epoch are none")


def optimizer_state(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> dict[str, Any]:
    """What `optimizer` can load of `saved`: tensors as large as their parameters, laid out alike.

    A fused optimizer goes through memory without looking at sizes. Learning rates and decays are
    those of the configuration, not of the file.

    Raises:
        ValueError: If it is of other parameters.
        LookupError: If an entry is missing.
    """
    groups = optimizer.state_dict()["param_groups"]
    if [group["params"] for group in saved["param_groups"]] != [g["params"] for g in groups]:
        raise ValueError("the optimizer is of other parameters")
    numbers = [number for group in groups for number in group["params"]]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    known = dict(zip(numbers, parameters, strict=True))
    state = {
        number: {name: _like(known[number], value) for name, value in entry.items()}
        for number, entry in saved["state"].items()
    }
    return {"state": state, "param_groups": groups}


def _like(parameter: Tensor, value: Any) -> Any:
    """A value of the state of `parameter`: a copy of its own, or a single number."""
    if not isinstance(value, Tensor):
        if value is not None and not _is_number(value):
            raise ValueError("the state of the optimizer is no number")
        return value
    if value.dim() == 0:
        return value.to(torch.float32, copy=True)
    if value.shape != parameter.shape:
        raise ValueError("the state of the optimizer has other sizes than the weights")
    return torch.empty_like(parameter, device="cpu", dtype=value.dtype).copy_(value)


def _is_whole(value: Any) -> bool:
    return type(value) is int


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)
