"""Stratified splits: every class gives its share."""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import StbpError, UsageError
from .loader import seeded_generator


def hold_out(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Split samples at random into a part to train on and a part held out, class by class.

    Args:
        labels: int64 `[N]`.
        fraction: share to hold out, strictly between 0 and 1.
        seed: decides, with the class, which samples are held out.

    Returns:
        Sorted indices, int64, of the samples kept and of those held out: together all samples,
        once. `round(N * fraction)` are held out, each class giving its share to within one sample;
        fewer where a class would be left without any: it keeps one.

    Raises:
        UsageError: `fraction` is out of range.
        StbpError: so few samples that none would be held out.
    """
    if not 0 < fraction < 1:
        raise UsageError(f"The validation fraction must lie between 0 and 1, not {fraction}.")
    held = torch.zeros(len(labels), dtype=torch.bool)
    seen = 0
    for label in labels.unique().tolist():
        members = (labels == label).nonzero().flatten()
        due = round((seen + len(members)) * fraction) - round(seen * fraction)
        seen += len(members)
        order = torch.randperm(len(members), generator=seeded_generator(seed, label))
        held[members[order[: min(due, len(members) - 1)]]] = True
    if not held.any():
        raise StbpError(
            f"Too little data: {100 * fraction:g} % of {len(labels)} training samples leaves none "
            "for validation; use a larger fraction or validate on the test set."
        )
    return (~held).nonzero().flatten(), held.nonzero().flatten()


def every_fifth(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Split samples by a fixed rule: every fifth of each class, in their order, is test.

    Returns:
        Sorted indices, int64, of the training and of the test samples.
    """
    rank = torch.empty_like(labels)
    for label in labels.unique():
        members = labels == label
        rank[members] = torch.arange(int(members.sum()))
    test = rank % 5 == 4
    return (~test).nonzero().flatten(), test.nonzero().flatten()
