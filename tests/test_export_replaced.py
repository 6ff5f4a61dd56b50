"""Earlier exports: kept, replaced, or put back, and nothing else is touched."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from snntorch_stbp.errors import StbpError, UsageError
from snntorch_stbp.export import api, to_nir, to_qonnx
from snntorch_stbp.export.c99 import to_c99
from snntorch_stbp.export.folder import load_folder, to_folder
from snntorch_stbp.export.nir import file as nir_export
from snntorch_stbp.lowering import lower

from .nets import digits, make

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:qonnx")


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "net"
    to_folder(lower(make("mnistnet_bn")), digits(2), path)
    return path


def test_an_earlier_export_is_kept_unless_forced(exported: Path, tmp_path: Path) -> None:
    net, folder = lower(make("mnistnet_bn")), tmp_path / "net"
    shutil.copytree(exported, folder)
    (folder / "99_older.npz").touch()
    with pytest.raises(UsageError, match="exists already; replace it with --force"):
        to_folder(net, digits(2), folder)
    assert (folder / "99_older.npz").exists()
    to_folder(net, digits(2), folder, force=True)
    assert not (folder / "99_older.npz").exists()
    assert load_folder(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["net"]
    with pytest.raises(UsageError, match="is a file; give the name of a folder"):
        to_folder(net, digits(2), folder / "network.json", force=True)


@pytest.mark.parametrize("write", [to_folder, to_c99])
@pytest.mark.parametrize("name", ["thesis.txt", "best.pt", "sub"])
def test_nothing_but_an_earlier_export_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Any, name: str
) -> None:
    """Whatever else is in a folder stays, the working directory among them."""
    net, mine = lower(make("mnistnet")), tmp_path / "mine"
    write(net, digits(2), mine)
    foreign = mine / name
    foreign.mkdir() if name == "sub" else foreign.touch()
    before = {path: path.is_dir() or path.read_bytes() for path in mine.iterdir()}
    monkeypatch.chdir(mine)
    for path in (mine, Path()):
        with pytest.raises(UsageError, match=f"holds '{name}', which is not of an export") as error:
            write(net, digits(2), path, force=True)
        assert error.value.exit_code == 2
        assert {p: p.is_dir() or p.read_bytes() for p in mine.iterdir()} == before
    foreign.rmdir() if name == "sub" else foreign.unlink()
    monkeypatch.chdir(tmp_path)
    write(net, digits(2), mine, force=True)


def test_a_folder_that_cannot_be_replaced_stays(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, rename = tmp_path / "net", Path.rename
    shutil.copytree(exported, folder)
    before = contents(folder)

    def fail(path: Path, target: Path) -> Path:
        if path.name == "new":
            raise OSError("trouble with the disk")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(StbpError, match=r"cannot write the folder .*: trouble with the disk"):
        to_folder(lower(make("mnistnet")), digits(2), folder, force=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["net"]


class _Killed(BaseException):
    """The end of a process."""


def test_an_export_that_was_killed_while_it_was_replaced_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, place = lower(make("mnistnet")), tmp_path / "net"
    to_folder(net, digits(2), place)
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    for name in (".net.00aa11bb.old", ".net.12345678.old"):  # older ones, and somebody else's
        shutil.copytree(place, tmp_path / name)
        os.utime(tmp_path / name, (0, 0))
    (tmp_path / ".net.12345678.old" / "thesis.txt").touch()
    place.rename(tmp_path / ".net.0123abcd.old")
    for age, name in ((0, ".net.a_b2c3d4.unfinished"), (10**6, ".net.e5f6g7h8.unfinished")):
        (tmp_path / name / "new").mkdir(parents=True)
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    with pytest.raises(UsageError, match="exists already; replace it with --force"):
        to_folder(net, digits(2), place)
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before
    left = {".net.12345678.old", ".net.a_b2c3d4.unfinished"}
    assert {path.name for path in tmp_path.iterdir()} == {"net", *left}

    rename = Path.rename

    def interrupt(path: Path, target: Path) -> Path:
        if path.name == "new":
            raise _Killed
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", interrupt)
    with pytest.raises(_Killed):
        to_folder(net, digits(3), place, force=True)
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before
    assert {path.name for path in tmp_path.iterdir()} == {"net", *left}


def export(write: Any, path: Path, bits: int, force: bool = False) -> None:
    """Export a network, one for each width, to one file and those beside it."""
    options = {} if write is to_nir else {"form": "step", "target": "hls4ml"}
    torch.manual_seed(bits)
    write(make("mnistnet", bits=bits), digits(bits), path, force=force, **options)


@pytest.mark.parametrize(("write", "module", "name"), [
    (to_qonnx, api, "qonnx_executor"), (to_nir, nir_export, "plain_reader"),
])  # fmt: skip
def test_two_exports_to_one_file_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Any, module: Any, name: str
) -> None:
    """Each is verified by itself; whoever comes second meets the file of the first."""
    path, run = tmp_path / "one" / "net.file", getattr(module, name)
    export(write, tmp_path / "two" / "net.file", bits=3)
    expected = contents(tmp_path / "two")

    def meanwhile(*arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr(module, name, run)
        export(write, path, bits=3, force=path.exists())
        return run(*arguments, **options)

    monkeypatch.setattr(module, name, meanwhile)
    with pytest.raises(UsageError, match=r"' exists already; replace it with --force\."):
        export(write, path, bits=2)
    assert contents(path.parent) == expected
    monkeypatch.setattr(module, name, meanwhile)
    export(write, path, bits=2, force=True)
    after = contents(path.parent)
    assert after.keys() == expected.keys()
    assert all(after[key] != expected[key] for key in ("net.file", "net.samples.npz"))


@pytest.mark.parametrize(("write", "error"), [
    (to_qonnx, OSError(28, "No space left on device")), (to_nir, _Killed()),
])  # fmt: skip
def test_an_export_that_ends_between_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Any, error: BaseException
) -> None:
    """What was there stays, all of it."""
    path, replace = tmp_path / "net.file", os.replace

    def fail(source: Path, target: Path) -> None:
        if target == path:
            raise error
        replace(source, target)

    for force in (False, True):
        before = contents(tmp_path)
        monkeypatch.setattr(os, "replace", fail)
        with pytest.raises((StbpError, _Killed)) as caught:
            export(write, path, bits=2, force=force)
        if isinstance(error, OSError):
            assert str(caught.value) == f"cannot write '{path}': No space left on device."
        assert contents(tmp_path) == before
        monkeypatch.setattr(os, "replace", replace)
        export(write, path, bits=3, force=force)


@pytest.mark.parametrize(("write", "last"), [
    (to_folder, "network.json"), (to_folder, "samples.npz"), (to_c99, "samples.bin"),
])  # fmt: skip
def test_a_full_disk_names_the_file_that_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Any, last: str
) -> None:
    replace = os.replace

    def fail(source: Path, target: Path) -> None:
        if Path(target).name == last:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(StbpError) as caught:
        write(lower(make("mnistnet")), digits(2), tmp_path / "net")
    assert (
        str(caught.value) == f"cannot write '{tmp_path / 'net' / last}': No space left on device."
    )
    assert list(tmp_path.iterdir()) == []
