"""Mixed pairs are those of Zhang 2018, and a step that uses them can be repeated exactly."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from snntorch_stbp import losses
from snntorch_stbp.train.loop import fit
from snntorch_stbp.train.objective import Objective, mix
from snntorch_stbp.train.run.reporter import Reporter

from .runs import assert_same_state, make_config, stopped_and_continued


def generator(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shape", [(5, 2, 3, 3), (4, 5, 2, 3, 3)])
def test_every_sample_is_blended_with_its_partner(shape: tuple[int, ...]) -> None:
    x = torch.rand(shape)
    mixed, order, share = mix(x, 1.0, generator())
    assert sorted(order.tolist()) == [0, 1, 2, 3, 4]
    assert 0.5 <= share < 1
    batch, blended = (t if t.dim() == 4 else t.transpose(0, 1) for t in (x, mixed))
    for i, partner in enumerate(order.tolist()):
        torch.testing.assert_close(blended[i], share * batch[i] + (1 - share) * batch[partner])
    again = mix(x, 1.0, generator())
    assert torch.equal(again[0], mixed)


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_the_share_is_beta_distributed(alpha: float) -> None:
    """Its variance about 1/2, which folding at 1/2 keeps, is 1 / (4 (2 alpha + 1))."""
    draws, source = torch.rand(1, 1, 1, 1), generator()
    shares = torch.tensor([mix(draws, alpha, source)[2] for _ in range(4000)])
    variance = (shares - 0.5).square().mean().item()
    assert variance == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.05)


def test_both_labels_are_learnt_by_their_shares() -> None:
    config = make_config("digits", mixup=1.0, label_smoothing=0.1)
    net = nn.Sequential(nn.Flatten(), nn.Linear(9, 10), nn.Unflatten(1, (1, 10)))

    def record_of(x: torch.Tensor) -> torch.Tensor:
        return net(x).transpose(0, 1)

    x, y = torch.rand(6, 1, 3, 3), torch.arange(6)
    loss, record = Objective(config, None)(record_of, x, y, generator())  # type: ignore[arg-type]
    mixed, order, share = mix(x, 1.0, generator())
    assert torch.equal(record, record_of(mixed))
    expected = sum(
        part * losses.cross_entropy(record, labels, 0.1)
        for part, labels in ((share, y), (1 - share, y[order]))
    )
    torch.testing.assert_close(loss, expected)


def test_a_mixed_run_resumes_bit_for_bit(small_digits: str, tmp_path: Path) -> None:
    config = make_config(small_digits, mixup=0.4, epochs=2)
    whole = fit(config, out=tmp_path / "whole", reporter=Reporter())["run"]
    assert_same_state(Path(whole), stopped_and_continued(config, tmp_path / "parts"))
