"""No file of a run is lost: one that is missing is named, and none takes the place of another."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from snntorch_stbp.errors import StbpError
from snntorch_stbp.train.loop import fit
from snntorch_stbp.train.run.reporter import Reporter
from snntorch_stbp.train.run.rundir import RunDir
from snntorch_stbp.train.sweep.runs import run_all

from .runs import call, make_config


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, small_digits: str) -> Path:
    """A run of two epochs."""
    config = make_config(small_digits, epochs=2)
    return Path(fit(config, out=tmp_path_factory.mktemp("files"), reporter=Reporter())["run"])


@pytest.fixture
def path(trained: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(trained, tmp_path / "out" / "run")
    return tmp_path / "out" / "run"


def files(path: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in path.iterdir() if p.is_file() and p.name[0] != "."}


@pytest.mark.parametrize("ended", [True, False])
@pytest.mark.parametrize("instead", ["nothing", "link", "folder"])
def test_a_run_without_its_last_checkpoint_does_not_begin_again(
    path: Path, instead: str, ended: bool
) -> None:
    (path / "last.pt").unlink()
    if instead == "link":
        (path / "last.pt").symlink_to("elsewhere.pt")
    if instead == "folder":
        (path / "last.pt").mkdir()
    if not ended:
        (path / "result.json").unlink()
    before = files(path)
    code, output = call("train", "--resume", str(path), "--epochs", "3")
    what = "gone" if instead == "nothing" else "no file"
    assert code == 1, output
    assert output.endswith(
        f"Error: '{path}' was trained, but its last.pt is {what}, so it cannot go on; begin a new "
        f"run with --init-from {path}.\n"
    )
    assert files(path) == before
    assert RunDir.open(path).status == ("finished" if ended else "interrupted")
    code, output = call("show", str(path))
    assert code == 0
    assert (f"--init-from {path}" in output) == (not ended)


def test_what_is_left_of_a_run_says_that_it_was_trained(path: Path) -> None:
    for name in ("last.pt", "best.pt", "result.json"):
        (path / name).unlink()
    with pytest.raises(StbpError, match=r"last\.pt is gone, so it cannot go on; begin a new run\."):
        fit(RunDir.open(path).config, out=path, reporter=Reporter(), resume=RunDir.open(path))
    (path / "metrics.csv").unlink()
    assert RunDir.open(path).status == "new"


def test_a_sweep_does_not_train_it_again(path: Path) -> None:
    run = RunDir.open(path)
    (path / "result.json").unlink()
    (path / "last.pt").unlink()
    before = files(path)
    with pytest.raises(StbpError, match=r"was trained, but its last\.pt is gone"):
        run_all([run.config], path.parent, Reporter(), lambda text: None)
    assert files(path) == before
