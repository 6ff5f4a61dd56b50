"""A network of integers as a folder: read again it is the same, and nothing foreign is taken."""

from __future__ import annotations

import io
import json
import math
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from snntorch_stbp import zoo
from snntorch_stbp.errors import StbpError, UsageError
from snntorch_stbp.export.folder import load_folder, to_folder
from snntorch_stbp.frozen import inputs
from snntorch_stbp.lowering import FixedPointNet, lower, reference
from snntorch_stbp.lowering.ranges import ranges

from .nets import digits, make

NETS: dict[str, Callable[[], FixedPointNet]] = {
    "4 bit": lambda: lower(make("mnistnet_bn")),
    "ternary resnet": lambda: lower(make("resnet", bits="ternary")),
    "quantized": lambda: lower(make("resnet", act_bits=6, membrane_bits=5)),
    "fine membranes": lambda: lower(make("mnistnet", act_bits=4, membrane_bits=7, num_steps=3)),
    "float": lambda: lower(make("mnistnet", bits=None)),
    "simple": lambda: lower(make("mnistnet_bn", bits=2), form="simple", samples=digits(20)),
    "population": lambda: lower(make("mnistnet", readout="population")),
    "maxima of currents": lambda: lower(make("pooled", bits=4)),
    "averages of currents": lambda: lower(make("averaged", bits=4)),
    "padded poolings": lambda: lower(make("padded currents", bits=4)),
}


def equal(a: Any, b: Any) -> bool:
    """Equality of plain data with arrays in it."""
    if is_dataclass(a):
        return type(a) is type(b) and all(
            equal(getattr(a, field.name), getattr(b, field.name)) for field in fields(a)
        )
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, np.ndarray):
        return bool(a.dtype == b.dtype and np.array_equal(a, b))
    return bool(a == b)


@pytest.mark.parametrize("name", NETS)
def test_a_folder_read_again_is_the_same_network(name: str, tmp_path: Path) -> None:
    net = NETS[name]()
    done = to_folder(net, digits(6), tmp_path / "net", metadata={"run": "a run"})
    assert equal(load_folder(done.path), net.integers)
    assert all(file.is_file() for file in done.files)
    assert sorted(done.files) == sorted(done.path.iterdir())
    assert [path.name for path in tmp_path.iterdir()] == ["net"]
    with np.load(done.path / "samples.npz") as samples:
        record: reference.Record = {}
        images = samples["input"].astype(np.int64)
        assert np.array_equal(reference.run(net.integers, images, record), samples["record"])
        counted = 0
        for stage in net.integers.stages:
            if stage.neuron is not None:
                spikes = samples[f"spikes/{stage.name}"]
                counted += spikes.size
                assert np.array_equal(spikes.swapaxes(0, 1), record[stage.name])
        scores = samples["record"].size
    assert (done.agreement.samples, done.agreement.spikes) == (6, counted)
    assert done.agreement.scores == scores


def test_what_clips_its_input_is_in_the_folder(tmp_path: Path) -> None:
    own = lower(make("mnistnet")).integers
    for clips in (True, False):
        net = FixedPointNet(replace(own, clips=clips))
        done = to_folder(net, digits(2), tmp_path / str(clips))
        assert load_folder(done.path).clips == clips
    file = done.path / "network.json"  # of an earlier release
    text = json.loads(file.read_text())
    del text["input"]["clips"]
    file.write_text(json.dumps(text))
    assert load_folder(done.path).clips


def test_event_frames_are_kept_by_sample(tmp_path: Path) -> None:
    model = zoo.create("nmnistnet", in_channels=2, image_size=16)
    frames = torch.randint(0, 9, (2, 3, 2, 16, 16)).float()
    done = to_folder(lower(model.eval()), frames, tmp_path / "net")
    text = json.loads((done.path / "network.json").read_text())
    assert text["input"]["frames"] is True
    with np.load(done.path / "samples.npz") as samples:
        assert samples["input"].shape == (3, len(frames), 2, 16, 16)


def test_the_schema_states_geometry_shapes_and_widths(tmp_path: Path) -> None:
    net = lower(make("resnet", bits="ternary"))
    done = to_folder(net, digits(2), tmp_path / "net", metadata={"run": "a run"})
    text = json.loads((done.path / "network.json").read_text())
    assert (text["format"], text["version"]) == ("snntorch-stbp fixed-point network", 1)
    assert text["input"] == {
        "shape": [1, 8, 8], "frames": False, "bits": 8, "scale": net.integers.input_scale,
        "clips": True,
    }  # fmt: skip
    assert (text["steps"], text["votes"], text["form"]) == (2, None, "exact")
    assert text["metadata"]["run"] == "a run"
    record: reference.Record = {}
    reference.run(net.integers, net.quantize_input(digits(2)).numpy(), record)
    for entry, stage in zip(text["stages"], net.integers.stages, strict=True):
        assert entry["name"] == stage.name
        assert entry["shape"] == list(record[f"{stage.name}/current"].shape[2:])
        reach = ranges(net.integers)[stage.name]
        assert entry["registers"]["membrane"]["bits"] == reach.membrane.bits
        assert len(entry["registers"]["accumulators"]) == len(stage.branches)
        for index, branch in enumerate(entry["branches"]):
            assert branch["shape"] == list(record[f"{stage.name}/{index}"].shape[2:])
        with np.load(done.path / entry["file"]) as arrays:
            for key, value in entry["arrays"].items():
                assert value["shape"] == list(arrays[key].shape)
            weights = [arrays[key] for key in arrays.files if key.startswith("weight")]
            assert all(weight.dtype == np.int8 for weight in weights)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("folder") / "net"
    return to_folder(lower(make("mnistnet_bn")), digits(2), folder).path


def _change(*keys: Any, to: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        text = json.loads((folder / "network.json").read_text())
        inner = text
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = to
        (folder / "network.json").write_text(json.dumps(text))

    return change


def _array(key: str, value: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = next(folder.glob("00_*.npz"))
        with np.load(file) as stored:
            arrays = dict(stored)
        arrays[key] = value(arrays[key])
        np.savez(file, **arrays)

    return change


def _encrypted(folder: Path) -> None:
    file = next(folder.glob("00_*.npz"))
    content = bytearray(file.read_bytes())
    for sign, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(sign) + flags] |= 1
    file.write_bytes(content)


def _member(folder: Path, name: str, content: bytes) -> None:
    """Give a member of an archive other content, or add it."""
    file = next(folder.glob("00_*.npz"))
    with zipfile.ZipFile(file) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    with zipfile.ZipFile(file, "w") as archive:
        for member, before in {**members, name: content}.items():
            archive.writestr(member, content if member == name else before)


def _huge(folder: Path, name: str = "weight0.npy") -> None:
    header = io.BytesIO()
    fields = {"descr": "|i1", "fortran_order": False, "shape": (10**13, 1, 5, 5)}
    np.lib.format.write_array_header_1_0(header, fields)
    _member(folder, name, header.getvalue())


def _more(folder: Path) -> None:
    _huge(folder, "more.npy")


def _raw(folder: Path) -> None:
    _member(folder, "bias.npy", b"anything else")


@pytest.mark.parametrize(("change", "message"), [
    (_encrypted, "cannot read '.*00_.*npz': .* is encrypted"),
    (_more, "00_.*npz' holds beta, .*, more, .*, but 'arrays' of .* declares beta,"),
    (_huge, "'weight0' in '.*00_.*npz' is int8 .10000000000000, 1, 5, 5., not int8"),
    (_raw, "cannot read '.*00_.*npz': it is damaged .the magic string is not correct"),
    (_change("stages", 0, "arrays", "bias", "shape", to=[1 << 31]), "claim 2,.* more than 2 GiB"),
    (_change("stages", 0, "arrays", "bias", "dtype", to="object"), "'dtype' .* is 'object', not"),
    (_change("form", to="x"), "'form' of .* is 'x', not exact or simple or quantized"),
    (_change("input", "scale", to=0), "'scale' of 'input' .* is 0, not a number above 0"),
    (_change("input", "scale", to=math.nan), "'scale' .* is nan, not a number above 0"),
    (_change("input", "scale", to=10**400), "'scale' .* is inf, not a number above 0"),
    (_change("stages", 0, "branches", 0, "weight_bits", to=1), "'weight_bits' of .* is 1, but its"),
    (_change("stages", 0, "branches", 0, "weight_bits", to=3), "is 3, but its weights are -7 to 7"),
    (_change("stages", 0, "registers", "accumulators", 0, "low", to=0), "'accumulators' of .* nee"),
    (_change("stages", 1, "registers", "current", "bits", to=1), "'current' of .* integers need"),
    (_change("stages", 1, "registers", "threshold", "high", to=0), "'threshold' of .* integers ne"),
    (_change("stages", 1, "registers", "largest", to=0), "'largest' of .* is 0, but its integers"),
    (lambda f: (f / "network.json").write_text("{"), "cannot read '.*network.json'"),
    (lambda f: (f / "network.json").write_text("[]"), "network.json' is no JSON object"),
    (lambda f: (f / "network.json").unlink(), "cannot read '.*network.json'"),
    (_change("format", to="other"), "is no network of integers"),
    (_change("version", to=2), "has version 2; this release reads 1"),
    (_change("steps", to=0), "'steps' of .* is 0, not 1 to 65536"),
    (_change("steps", to=True), "'steps' of .* is True, not of type int"),
    (_change("input", "bits", to=9), "'bits' of 'input' .* is 9, not 1 to 8"),
    (_change("input", "shape", to=[1, 8]), "'shape' of 'input' .* has 2 numbers, not 3"),
    (_change("votes", to=3), "10 neurons cannot vote for 3 classes"),
    (_change("stages", to=[]), "at least one stage"),
    (_change("stages", 1, "file", to="../x.npz"), "'file' of .* is '../x.npz', not a file of"),
    (_change("stages", 1, "file", to="missing.npz"), "cannot read '.*missing.npz'"),
    (_change("stages", 1, "up", to=99), "'up' of .* is 99, not 0 to 30"),
    (_change("stages", 1, "shape", to=[1, 1, 1]), "'shape' of .*, which follows"),
    (_change("stages", 1, "branches", 0, "source", to="none"), "takes 'none', which is no stage"),
    (_change("stages", 0, "branches", 0, "groups", to=3), "weights .* do not fit"),
    (_change("stages", 1, "branches", 0, "stride", to=[0, 1]), "is 0, not 1 to 65536"),
    (_change("stages", 1, "neuron", "reset", to="half"), "'half', not zero or subtract or delayed"),
    (_change("stages", 1, "neuron", "ages", to=7), "'ages' of .* is not that of 'threshold'"),
    (_change("stages", 1, "registers", "membrane", "bits", to=3), "not those that were written"),
    (_array("weight0", lambda w: w.astype(object)), "'weight0' in .* is object .*, not int8"),
    (_array("weight0", lambda w: w[:1]), "'weight0' in .* is int8 .*, not int8"),
    (_array("weight0", lambda w: w.astype(np.int64)), "'weight0' in .* is int64 .*, not int8"),
    (_array("weight0", lambda w: w * 0), "not those that were written"),
    (_change("stages", 0, "up", to=30), "needs more than 32 bits"),
    (_array("beta", lambda b: b * 0 + 100), "'beta' of .* exceeds 2\\^leak, 4"),
    (_array("unit", lambda u: u * np.nan), "'unit' in .* is not finite everywhere"),
    (_array("shift", lambda s: s - 1), "'shift' in .* is not 0 to 30 everywhere"),
])  # fmt: skip
def test_what_is_wrong_in_a_folder_is_named(
    change: Callable[[Path], None], message: str, exported: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "net"
    shutil.copytree(exported, folder)
    change(folder)
    with pytest.raises(StbpError, match=message) as caught:
        load_folder(folder)
    assert caught.value.exit_code == 1
    assert str(caught.value).count("\n") == 0


def test_a_link_out_of_the_folder_is_not_followed(exported: Path, tmp_path: Path) -> None:
    folder = tmp_path / "net"
    shutil.copytree(exported, folder)
    file = next(folder.glob("01_*.npz"))
    file.rename(tmp_path / "outside.npz")
    file.symlink_to(tmp_path / "outside.npz")
    with pytest.raises(StbpError, match="not a file of the folder itself"):
        load_folder(folder)


def test_samples_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    net = lower(make("mnistnet_bn"))
    with pytest.raises(UsageError, match=r"images \[N, C, H, W\] or frames .*, not \[0, 1, 8, 8\]"):
        to_folder(net, digits(2)[:0], tmp_path / "net")
    with pytest.raises(UsageError, match="samples have 3 frames, the network 2 steps"):
        to_folder(net, digits(6).reshape(3, 2, 1, 8, 8), tmp_path / "net")


def test_nothing_is_left_behind_if_what_was_read_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = lower(make("mnistnet_bn"))
    other = lower(make("mnistnet_bn", bits=2)).integers
    monkeypatch.setattr("snntorch_stbp.export.folder.load_folder", lambda path: other)
    with pytest.raises(
        StbpError, match=r"the spikes of .features.1. differ from the torch module first"
    ):
        to_folder(net, digits(4), tmp_path / "net")
    assert list(tmp_path.iterdir()) == []
    assert inputs.size(digits(4)) == (1, 8, 8)
