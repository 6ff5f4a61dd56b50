"""Stratified splits: every class gives its share."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

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
    classes, sizes = labels.unique(return_counts=True)
    due = shares(sizes.tolist(), fraction)
    for label, count in zip(classes.tolist(), due, strict=True):
        members = (labels == label).nonzero().flatten()
        order = torch.randperm(len(members), generator=seeded_generator(seed, label))
        held[members[order[:count]]] = True
    if not held.any():
        remedy = "validate on the test set (--validate-on-test)"
        if int(sizes.max()) > 1:
            remedy = f"use a larger fraction, or {remedy}"
        raise StbpError(
            f"Too little data: {100 * fraction:g} % of {len(labels)} training samples, of which "
            f"every class keeps one, leaves none for validation; {remedy}."
        )
    return (~held).nonzero().flatten(), held.nonzero().flatten()


def shares(sizes: Sequence[int], fraction: float) -> list[int]:
    """How many samples of each class are held out, see `hold_out`.

    Of a smaller fraction it may be one more of a class: then it is no part of that of a larger one.

    Args:
        sizes: Samples of each class, in the order of the labels.
        fraction: As there.
    """
    ends = pairwise(accumulate(sizes, initial=0))
    return [min(round(b * fraction) - round(a * fraction), b - a - 1) for a, b in ends]


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
