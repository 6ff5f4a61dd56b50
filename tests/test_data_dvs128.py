"""DVS Gesture from IBM's own files: AEDAT 3.1 recordings of several gestures, and their tables."""

from __future__ import annotations

import json
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from snntorch_stbp.errors import StbpError
from snntorch_stbp.train.data import load
from snntorch_stbp.train.data.dvs128 import CLASSES, LISTS, read_events

from .runs import call
from .test_data_events import counted, recording

HEAD = b"#!AER-DAT3.1\r\n#Format: RAW\r\n#Source 1: DVS128\r\n#!END-HEADER\r\n"


def packet(made: np.ndarray, overflows: int = 0, kind: int = 1, valid: bool = True) -> bytes:
    """Events as a packet, one word of address and one of time each."""
    words = b""
    for x, y, t, p in made.tolist():
        address = x << 17 | y << 2 | p << 1 | valid
        words += struct.pack("<II", address, t - (overflows << 31))
    count = len(made)
    return struct.pack("<HHIIIIII", kind, 1, 8, 4, overflows, count, count, count) + words


def write_gestures(folder: Path, users: tuple[int, int] = (3, 2), count: int = 300) -> dict:
    """Two gestures a user, class 1 in the upper and class 11 in the lower half, and a pause."""
    place, made = folder / "DvsGesture", {}
    place.mkdir(parents=True)
    names: list[list[str]] = [[], []]
    for user in range(sum(users)):
        name = f"user{user + 1:02d}_led"
        names[user >= users[0]].append(name + ".aedat")
        lines, content = ["class,startTime_usec,endTime_usec"], HEAD
        for number, label in enumerate((1, 11)):
            start = 10_000 * (number + 1)
            events = recording(10 * user + number, count, side=128, duration=5000)
            events["y"] = events["y"] // 2 + 64 * number
            events["t"] += start
            made[name, number] = events
            lines.append(f"{label},{start},{start + 5000}")
            pause = recording(99, 50, side=128, duration=900)
            pause["t"] += start + 5000  # behind the gesture
            content += packet(events[:100]) + packet(events[:3], kind=0)  # another kind of events
            content += packet(events[:7], valid=False) + packet(events[100:]) + packet(pause)
        (place / f"{name}.aedat").write_bytes(content)
        (place / f"{name}_labels.csv").write_text("\n".join(lines) + "\n")
    for file, part in zip(LISTS, names, strict=True):
        (place / file).write_text("\n".join(part) + "\n")
    return made


def test_gestures_are_cut_by_their_tables(tmp_path: Path) -> None:
    made = write_gestures(tmp_path)
    bundle = load("dvsgesture", data_dir=tmp_path, num_steps=4, validate_on_test=True)
    assert bundle.source == f"IBM's recordings in {tmp_path / 'DvsGesture'}, frames of 4 time bins"
    assert (bundle.classes, len(bundle.train), len(bundle.test)) == (CLASSES, 6, 4)
    assert bundle.train.labels.tolist() == [0, 10] * 3
    assert bundle.test.labels.tolist() == [0, 10] * 2
    for _ in range(2):  # then from what is kept of each
        for part, first in ((bundle.train, 1), (bundle.test, 4)):
            x, _ = part.__getitems__(range(len(part)))
            for row in range(len(part)):
                events = made[f"user{first + row // 2:02d}_led", row % 2].copy()
                events["t"] -= events["t"].min()
                assert torch.equal(x[:, row], counted(events, 4, 5000, 128))
    assert len(list((tmp_path / "frames").rglob("*.frames.npy"))) == 10
    elsewhere = pickle.loads(pickle.dumps(bundle.train))  # as processes that load take it
    assert torch.equal(elsewhere[1][0], bundle.train[1][0])


def test_times_go_on_behind_an_overflow(tmp_path: Path) -> None:
    made, path = recording(0, side=128), tmp_path / "r.aedat"
    made["t"] += 1 << 31
    path.write_bytes(HEAD + packet(made[:100], overflows=1) + packet(made[100:], overflows=1))
    found = read_events(path, 0, 1 << 40)
    for field in ("x", "y", "p", "t"):
        assert np.array_equal(found[field], made[field])
    assert len(read_events(path, 0, 1 << 31)) == 0


def test_a_recipe_learns_from_them(tmp_path: Path) -> None:
    write_gestures(tmp_path, (10, 4), count=3000)
    code, output = call(
        "train", "nmnistnet", "--dataset", "dvsgesture", "--data-dir", str(tmp_path), "--epochs",
        "3", "--batch-size", "4", "--val-fraction", "0.2", "--bits", "4", "--augment", "none",
        "--lr", "5e-4", "--device", "cpu", "--out", str(tmp_path / "runs"), "--json",
    )  # fmt: skip
    assert code == 0, output
    assert json.loads(output.splitlines()[-1])["test_accuracy"] >= 0.75


def changed(name: str, content: bytes) -> Any:
    return lambda place: (place / name).write_bytes(content)


@pytest.mark.parametrize(("change", "message"), [
    (lambda place: (place / "user01_led.aedat").unlink(),
     r"trials_to_train.txt' names 'user01_led.aedat', which is not there"),
    (lambda place: (place / "user01_led_labels.csv").unlink(),
     r"cannot read '.*user01_led_labels.csv': No such file or directory"),
    (changed("user01_led_labels.csv", b"class,start,end\n1,2\n"),
     r"user01_led_labels.csv' is no table of class, startTime_usec, endTime_usec"),
    (changed("user01_led_labels.csv", b"class,start,end\n12,2,3\n"),
     r"user01_led_labels.csv' has a gesture 12 from 2 to 3"),
    (changed("user01_led_labels.csv", b"class,start,end\n1,3,3\n"), "has a gesture 1 from 3 to 3"),
    (changed("trials_to_test.txt", b"\n"), "trials_to_test.txt' names no recordings"),
    (changed("trials_to_test.txt", b"../../secret\n"), "names '../../secret', which is not there"),
    (changed("user01_led.aedat", b"#!AER-DAT2.0\r\n"), "cannot be read .it is no AEDAT 3.1"),
    (changed("user01_led.aedat", b""), r"user01_led.aedat cannot be read"),
    (changed("user01_led.aedat", HEAD + b"\0" * 9), "cannot be read .it ends within a packet"),
    (changed("user01_led.aedat", HEAD + struct.pack("<HHIIIIII", 1, 1, 8, 4, 0, 9, 9, 9)),
     "cannot be read .it ends within a packet"),
    (changed("user01_led.aedat", HEAD + struct.pack("<HHIIIIII", 1, 1, 0, 4, 0, 9, 9, 9)),
     "cannot be read .it has events of 0 bytes, not 8"),
])  # fmt: skip
def test_what_is_wrong_is_named(tmp_path: Path, change: Any, message: str) -> None:
    write_gestures(tmp_path)
    change(tmp_path / "DvsGesture")
    with pytest.raises(StbpError, match=message):
        load("dvsgesture", data_dir=tmp_path, validate_on_test=True).train[0]


def test_what_is_missing_says_where_the_archive_goes(tmp_path: Path) -> None:
    with pytest.raises(StbpError, match=r"or unpack IBM's archive to .*DvsGesture\.$"):
        load("dvsgesture", data_dir=tmp_path)
