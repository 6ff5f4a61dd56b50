"""What exports are asked for in vain: no samples, numbers below 1, folders in place of files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import snntorch_stbp as stbp
from snntorch_stbp import Leaky, Precision, TimeDistributed
from snntorch_stbp.errors import StbpError, UsageError
from snntorch_stbp.export import to_c99, to_folder, to_nir, to_qonnx
from snntorch_stbp.files import check_new
from snntorch_stbp.frozen import freeze

from .nets import digits
from .runs import call, short_run
from .test_reading import conv, net

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:qonnx")
EXPORTS = (
    to_qonnx,
    to_nir,
    lambda model, *rest: to_folder(stbp.lower(model), *rest),
    lambda model, *rest: to_c99(stbp.lower(model), *rest),
    lambda model, samples, path: stbp.lower(model, samples=samples),
)


def small() -> nn.Module:
    torch.manual_seed(0)
    return net(TimeDistributed(Precision(4).conv2d(1, 4, 3)), Leaky(0.5, 0.1))


def spoiled(value: float, frames: bool = False) -> torch.Tensor:
    samples = torch.stack([digits(4)] * 3) if frames else digits(4)
    (samples[0] if frames else samples)[2, 0, 3, 3] = value
    return samples


@pytest.mark.parametrize("export", EXPORTS)
@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (digits(4)[:0], r"samples are images .*, at least one, not \[0, 1, 8, 8\]"),
        (spoiled(float("nan")), "sample 2 is not finite, it holds nan: export needs real inputs"),
        (spoiled(float("-inf")), "sample 2 is not finite, it holds -inf"),
        (spoiled(float("inf"), frames=True), "sample 2 is not finite, it holds inf"),
    ],
)
def test_samples_that_show_nothing(
    tmp_path: Path, export: Any, samples: torch.Tensor, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        export(small(), samples, tmp_path / "net.file")
    assert not list(tmp_path.iterdir())


def test_one_sample_is_no_batch(tmp_path: Path) -> None:
    layer = TimeDistributed(Precision(4).linear(8, 6))
    model = nn.Sequential(stbp.DirectCoding(2, still_dims=2), layer, Leaky()).eval()
    for export in EXPORTS:
        with pytest.raises(UsageError, match=r"of features \[N, F\] or \[T, N, F\], .* not \[8\]"):
            export(model, torch.rand(8), tmp_path / "net.file")


@pytest.mark.parametrize("name", ["batch", "vectors"])
@pytest.mark.parametrize("value", [0, -1])
def test_numbers_below_one(tmp_path: Path, name: str, value: int) -> None:
    with pytest.raises(UsageError, match=f"{name} is a whole number from 1, not {value}"):
        to_qonnx(small(), digits(4), tmp_path / "net.onnx", **{name: value})  # type: ignore
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("export", [to_qonnx, to_nir])
@pytest.mark.parametrize("force", [True, False])
def test_a_folder_is_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, export: Any, force: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path, Path(".")):
        with pytest.raises(UsageError, match=r"'.*' is a folder; give the name of a file\."):
            export(small(), digits(4), path, force=force)
    (tmp_path / "net.samples.npz").mkdir()
    with pytest.raises(UsageError, match=r"net\.samples\.npz' is a folder"):
        export(small(), digits(4), tmp_path / "net.onnx", force=force)
    with pytest.raises(UsageError, match="is a folder"):
        check_new([tmp_path], force)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    return short_run(tmp_path_factory.mktemp("runs"))


@pytest.mark.parametrize(
    "options", [[], ["--force"], ["--as-trained"], ["--fixed-point"], ["--format", "nir"]]
)
def test_the_command_line_says_so_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: str, options: list[str]
) -> None:
    monkeypatch.setattr("snntorch_stbp.train.evaluate.load_trained", None)
    code, output = call("export", run, "--output", str(tmp_path), *options)
    assert code == 2
    assert f"'{tmp_path}' is a folder; give the name of a file." in output


def test_thresholds_of_zero(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = net(conv(), Leaky(0.5, 0.0))
    message = r"'3' has a threshold of 0, and deployment arithmetic measures .*--fixed-point\) take"
    with pytest.raises(StbpError, match=message):
        freeze(model)
    fixed = stbp.lower(model)
    with torch.no_grad():
        assert torch.equal(fixed(digits(8)), model(digits(8)))
    assert to_folder(fixed, digits(8), tmp_path / "net").agreement.samples == 8
    some = net(conv(), Leaky(0.5, torch.tensor([0.0, 0.1, 0.2, 0.3])))
    assert freeze(some)(digits(2)).isfinite().all()
