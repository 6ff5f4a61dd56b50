"""Losses equal their definitions, written out sample by sample."""

from __future__ import annotations

import math

import pytest
import torch

from snntorch_stbp import losses

RECORD = torch.randn(3, 4, 5, dtype=torch.float64)
TARGET = torch.tensor([0, 4, 2, 2])


def entropy(scores: list[float], target: int, smoothing: float) -> float:
    log_sum = math.log(sum(math.exp(s) for s in scores))
    logs = [s - log_sum for s in scores]
    wanted = [smoothing / len(scores) + (1 - smoothing) * (c == target) for c in range(len(scores))]
    return -sum(w * v for w, v in zip(wanted, logs, strict=True))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_of_the_mean(smoothing: float) -> None:
    mean = RECORD.mean(0).tolist()
    expected = sum(entropy(s, t, smoothing) for s, t in zip(mean, TARGET.tolist(), strict=True)) / 4
    assert losses.cross_entropy(RECORD, TARGET, smoothing).item() == pytest.approx(expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_tet_is_the_mean_over_steps(smoothing: float) -> None:
    expected = sum(
        entropy(RECORD[t, b].tolist(), TARGET[b].item(), smoothing)
        for t in range(3)
        for b in range(4)
    )
    assert losses.tet(RECORD, TARGET, smoothing).item() == pytest.approx(expected / 12)


def test_mse_rate_is_the_distance_of_rates_from_one_hot() -> None:
    spikes = (RECORD > 0).double()
    rates = spikes.mean(0)
    expected = sum(
        (rates[b, c].item() - (TARGET[b].item() == c)) ** 2 for b in range(4) for c in range(5)
    )
    assert losses.mse_rate(spikes, TARGET).item() == pytest.approx(expected / 20)
