"""Early exit in time: a sample stops at the first step at which the network is sure of its class.

Y. Li, T. Geller, Y. Kim, P. Panda, "SEENN: Towards temporal spiking early-exit neural networks",
NeurIPS 2023, arXiv:2304.01230: the confidence is the largest softmax probability of the mean record
so far, and one threshold holds for all steps (SEENN-I).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import torch
from torch import Tensor


class Exit(TypedDict):
    """Accuracy in [0, 1] and mean steps, 1 to `T`, at a confidence in [0, 1]."""

    confidence: float
    accuracy: float
    mean_steps: float


def exits(record: Tensor, confidence: float) -> tuple[Tensor, Tensor]:
    """When and with which class every sample of a record stops.

    Args:
        record: Spikes or currents of the last layer, `[T, B, classes]`.
        confidence: Least probability to stop at, 0 to 1. Readouts of spikes, whose means lie in
            [0, 1], are never surer than `e / (e + classes - 1)`.

    Returns:
        The number of steps taken, 1 to `T`, and the class, both int64 `[B]`. A sample that is never
        sure takes all steps.
    """
    count = torch.arange(1, len(record) + 1, device=record.device)
    means = record.float().cumsum(0) / count.reshape(-1, 1, 1)
    sure = means.softmax(-1).amax(-1) >= confidence
    sure[-1] = True
    step = sure.int().argmax(0)  # the first of the largest
    classes = means.argmax(-1).gather(0, step.unsqueeze(0)).squeeze(0)
    return step + 1, classes


class EarlyExit:
    """Accuracy against mean steps at several confidences, all from one pass of `T` steps.

    Args:
        confidences: Thresholds, each 0 to 1.
    """

    def __init__(self, confidences: Sequence[float]) -> None:
        self.confidences = list(confidences)
        self.correct, self.steps = ([0] * len(self.confidences) for _ in range(2))
        self.samples = 0

    def update(self, record: Tensor, target: Tensor) -> None:
        """Add a batch: its record `[T, B, classes]` and targets `[B]`."""
        for index, confidence in enumerate(self.confidences):
            steps, classes = exits(record, confidence)
            self.correct[index] += int((classes == target).sum())
            self.steps[index] += int(steps.sum())
        self.samples += len(target)

    def read(self) -> list[Exit]:
        """A row for each confidence."""
        total = max(self.samples, 1)
        return [
            Exit(confidence=confidence, accuracy=correct / total, mean_steps=steps / total)
            for confidence, correct, steps in zip(
                self.confidences, self.correct, self.steps, strict=True
            )
        ]
