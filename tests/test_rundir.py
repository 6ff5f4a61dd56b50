"""Run folders never collide, files are whole or absent, and foreign files are refused."""

from __future__ import annotations

import errno
import os
import pickle
import re
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from threading import Event
from typing import Any

import pytest
import torch

from snntorch_stbp.errors import StbpError, UsageError
from snntorch_stbp.train.config import RunConfig
from snntorch_stbp.train.run import checkpoint
from snntorch_stbp.train.run.rundir import RunDir, list_runs

from .runs import call

CONFIG = RunConfig.from_recipe("mnistnet", "digits", bits=4)


def test_folders_are_numbered_and_never_shared(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(lambda _: RunDir.create(tmp_path, CONFIG), range(16)))
    names = {run.path.name for run in runs}
    assert names == {f"mnistnet-digits-w4-T2-{n}" for n in range(1, 17)}
    assert len(list_runs(tmp_path)) == 16


def test_numbers_are_not_used_again(tmp_path: Path) -> None:
    first, second = RunDir.create(tmp_path, CONFIG), RunDir.create(tmp_path, CONFIG)
    (first.path / "config.json").unlink()
    first.path.rmdir()
    assert RunDir.create(tmp_path, CONFIG).path.name.endswith("-3")
    assert second.path.name.endswith("-2")


def test_the_configuration_survives_its_file(tmp_path: Path) -> None:
    assert RunDir.open(RunDir.create(tmp_path, CONFIG).path).config == CONFIG


def test_an_unwritable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StbpError, match=r"cannot make a run folder in .*choose another with --out"):
        RunDir.create(tmp_path / "file", CONFIG)


def test_a_run_is_held_by_one_process(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, CONFIG)
    with (
        run.locked(),
        pytest.raises(StbpError, match="another process is training in"),
        RunDir.open(run.path).locked(),
    ):
        pass


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "there is no run folder"),
        (lambda p: p.mkdir(), "is not the folder of a run: it has no config.json"),
        (lambda p: (p.mkdir(), (p / "config.json").write_text("{}")), "not the configuration"),
        (lambda p: (p.mkdir(), (p / "config.json").write_text("{")), "not the configuration"),
        (lambda p: (p.mkdir(), (p / "config.json").write_bytes(b"\xff")), "cannot read"),
    ],
)
def test_what_is_no_run_is_refused(tmp_path: Path, make: object, message: str) -> None:
    make(tmp_path / "run")
    with pytest.raises(StbpError, match=message):
        RunDir.open(tmp_path / "run")


def _full(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_keeps_the_checkpoint_from_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "last.pt"
    checkpoint.save(file, {"epoch": 1})
    monkeypatch.setattr(os, "fsync", _full)
    with pytest.raises(
        StbpError, match=r"No space left on device \(the file from before is kept\)"
    ):
        checkpoint.save(file, {"epoch": 2})
    assert checkpoint.load(file)["epoch"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_what_is_written_in_the_background_is_what_was_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, save = Event(), checkpoint.save

    def later(path: Path, state: dict[str, Any]) -> None:
        assert go.wait(60)
        save(path, state)

    monkeypatch.setattr(checkpoint, "save", later)
    writer, weight, rows = checkpoint.Writer(background=True), torch.zeros(3), [{"epoch": 1}]
    files = [tmp_path / "best.pt", tmp_path / "last.pt"]
    writer.save({file: {"model": {"w": weight}, "history": rows} for file in files})
    weight += 1  # training goes on
    rows[0]["epoch"] = 2
    rows.append({"epoch": 3})
    go.set()
    writer.wait()
    for file in files:
        state = checkpoint.load(file)
        assert torch.equal(state["model"]["w"], torch.zeros(3))
        assert state["history"] == [{"epoch": 1}]


def test_what_goes_wrong_in_the_background_is_never_lost(tmp_path: Path) -> None:
    writer = checkpoint.Writer(background=True)
    writer.save({tmp_path / "last.pt": {"no value": (value for value in ())}})
    with pytest.raises(TypeError, match="generator"):
        writer.wait()
    assert not list(tmp_path.iterdir())


def test_an_error_in_the_background_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, file = checkpoint.Writer(background=True), tmp_path / "last.pt"
    writer.save({file: {"epoch": 1}})
    writer.join()
    monkeypatch.setattr(os, "fsync", _full)
    writer.save({file: {"epoch": 2}})
    writer.join()  # as where another error is on its way
    with pytest.raises(
        StbpError, match=r"No space left on device \(the file from before is kept\)"
    ):
        writer.save({file: {"epoch": 3}})
    writer.wait()
    assert checkpoint.load(file)["epoch"] == 1


class Malicious:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("echo harm",)


def test_damaged_foreign_and_dangerous_checkpoints_are_refused(tmp_path: Path) -> None:
    good = tmp_path / "good.pt"
    state = {"name": "mnistnet", "classes": ["0"], "model": {"w": torch.rand(100, 100)}}
    checkpoint.save(good, state)
    assert checkpoint.load(good, "mnistnet")["model"]["w"].shape == (100, 100)

    files = {
        "missing.pt": (None, "there is no checkpoint"),
        "truncated.pt": (good.read_bytes()[:5000], "damaged, or not a checkpoint at all"),
        "empty.pt": (b"", "damaged, or not a checkpoint at all"),
        "text.pt": (b"hello, this is no checkpoint", "damaged, or not a checkpoint at all"),
        "old.pt": (pickle.dumps(Malicious()), "could run code: refused"),
    }
    for name, (content, message) in files.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(StbpError, match=message):
            checkpoint.load(tmp_path / name)

    torch.save({"model": Malicious()}, tmp_path / "new.pt")
    with pytest.raises(StbpError, match="could run code: refused"):
        checkpoint.load(tmp_path / "new.pt")
    torch.save({"state_dict": {}}, tmp_path / "foreign.pt")
    with pytest.raises(StbpError, match="is not a checkpoint of snntorch-stbp"):
        checkpoint.load(tmp_path / "foreign.pt")
    with zipfile.ZipFile(tmp_path / "zip.pt", "w") as archive:
        archive.writestr("a.txt", "hello")
    with pytest.raises(StbpError, match="damaged, or not a checkpoint at all"):
        checkpoint.load(tmp_path / "zip.pt")
    with pytest.raises(StbpError, match="is a checkpoint of mnistnet, not of vgg11"):
        checkpoint.load(good, "vgg11")


def _with_pickle(source: Path, target: Path, change: Callable[[bytes], bytes]) -> None:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for entry in old.infolist():
            content = old.read(entry)
            pickled = entry.filename.endswith("data.pkl")
            new.writestr(entry.filename, change(content) if pickled else content)


def test_one_changed_byte_is_damage_whatever_it_hits(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.pt", tmp_path / "bad.pt"
    checkpoint.save(good, {"name": "mnistnet", "classes": ["0"], "model": {"w": torch.rand(3)}})
    random, refused = Random(0), 0

    def change(content: bytes) -> bytes:
        at = random.randrange(len(content))
        return content[:at] + bytes([random.randrange(256)]) + content[at + 1 :]

    for _ in range(200):
        _with_pickle(good, bad, change)
        try:
            checkpoint.load(bad, "mnistnet")
        except StbpError:
            refused += 1
    assert refused > 50


def test_a_checkpoint_without_its_parts_is_damaged(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "a.pt", {"name": "mnistnet", "classes": None, "model": {}})
    with pytest.raises(StbpError, match=r"is damaged: it holds no network, or no classes"):
        checkpoint.load(tmp_path / "a.pt", "mnistnet")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("result.json", "[]"),
        ("result.json", "[" * 100_000),
        ("result.json", '{"status": [], "test_accuracy": "high"}'),
        ("metrics.csv", "epoch,loss\n1,0.5\n"),
        ("metrics.csv", "epoch,val_accuracy\n1,0.5\n2"),
        ("metrics.csv", "epoch,val_accuracy\n1,0.5,6,7\n"),
        ("metrics.csv", "epoch,val_accuracy,seconds\n1,0.5,nan\n"),
        ("metrics.csv", b"\xff\xfe"),
        ("metrics.csv", b"epoch,val_accuracy\n1,\0\n"),
    ],
)
def test_a_damaged_file_leaves_its_run_in_the_list(
    tmp_path: Path, name: str, content: str | bytes
) -> None:
    bad, good = (RunDir.create(tmp_path, CONFIG) for _ in range(2))
    data = content if isinstance(content, bytes) else content.encode()
    (bad.path / name).write_bytes(data)
    code, output = call("runs", "--out", str(tmp_path))
    assert code == 0, output
    assert str(bad.path) in output
    assert str(good.path) in output
    for json in ([], ["--json"]):
        code, output = call("show", str(bad.path), *json)
        assert code == 0, output


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 100_000, "is not the configuration of a run"),
        ("[]", "is not the configuration of a run"),
        (CONFIG.to_json().replace('"digits"', "5"), "'dataset' is 5"),
        (CONFIG.to_json().replace('"seed": 0', '"seed": false'), "'seed' is False"),
        (CONFIG.to_json().replace('"teacher": []', '"teacher": [1]'), r"'teacher' holds \(1,\)"),
    ],
)
def test_a_damaged_configuration_takes_only_its_run_out_of_the_list(
    tmp_path: Path, content: str, message: str
) -> None:
    bad, good = (RunDir.create(tmp_path, CONFIG) for _ in range(2))
    (bad.path / "config.json").write_text(content)
    code, output = call("runs", "--out", str(tmp_path))
    assert code == 0, output
    assert str(good.path) in output
    assert str(bad.path) not in output
    code, output = call("show", str(bad.path))
    assert code == 1
    assert re.search(message, output)
    assert "--debug" not in output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 0}, "bits is 32 .*, 1 to 8, or 'ternary', not 0"),
        ({"bits": 9}, "not 9"),
        ({"steps": 0}, "steps lies between 1 and 10000, not 0"),
        ({"lr": 0.0}, "lr is a positive number, not 0.0"),
        ({"lr": float("nan")}, "lr is a positive number, not nan"),
        ({"optimizer": "adamx"}, "optimizer is one of .*not 'adamx'. Did you mean 'adam'"),
        ({"precision": "8"}, "precision is one of 32, bf16-mixed, 16-mixed, not '8'"),
        ({"learning": 1}, "unknown option 'learning'"),
        ({"act_bits": 1}, "--act-bits lies between 2 and 16, not 1"),
    ],
)
def test_impossible_configurations_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        RunConfig.from_recipe("mnistnet", "digits", **options)


def test_names_of_models_and_data_sets_are_checked() -> None:
    with pytest.raises(UsageError, match=r"no model 'resnet81'\. Did you mean 'resnet19'"):
        RunConfig.from_recipe("resnet81", "digits")
    with pytest.raises(UsageError, match="digits"):
        RunConfig.from_recipe("resnet18", "digit")
