"""Numpy archives: every layout read alike, every fault named in one sentence."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from snntorch_stbp.cli import main
from snntorch_stbp.errors import StbpError
from snntorch_stbp.train.data import load
from snntorch_stbp.train.data.arrays import resize
from snntorch_stbp.train.loop import fit
from snntorch_stbp.train.run.reporter import Reporter

from .runs import call, make_config

MNIST = Path(__file__).parents[2] / "shared" / "data" / "mnist.npz"


def arrays(**changes):
    random = np.random.default_rng(0)
    good = {
        "x_train": random.integers(0, 256, (20, 6, 7), dtype=np.uint8),
        "y_train": np.arange(20) % 2,
        "x_test": random.integers(0, 256, (4, 6, 7), dtype=np.uint8),
        "y_test": np.array([0, 1, 1, 0]),
    }
    return {k: v for k, v in (good | changes).items() if v is not None}


def read(tmp_path, **changes):
    np.savez(tmp_path / "set.npz", **arrays(**changes))
    return load(f"npz:{tmp_path / 'set.npz'}", data_dir=tmp_path, validate_on_test=True)


def test_grey_images(tmp_path):
    bundle = read(tmp_path)
    x, y = bundle.train.__getitems__([3, 0])
    assert (bundle.channels, bundle.image_size, bundle.classes) == (1, (6, 7), ["0", "1"])
    assert (bundle.kind, bundle.input_max, bundle.val_name) == ("image", 1.0, "test set")
    assert len(bundle.train) == 20
    assert len(bundle.test) == len(bundle.val) == 4
    expected = torch.from_numpy(arrays()["x_train"][[3, 0]]).unsqueeze(1).float() / 255
    assert torch.equal(x, expected)
    assert y.tolist() == [1, 0]
    sample, label = bundle.train[3]
    assert torch.equal(sample, expected[0])
    assert label == 1


@pytest.mark.parametrize("channels", [1, 3])
def test_layouts_agree(tmp_path, channels):
    random = np.random.default_rng(1)
    train, test = (random.integers(0, 256, (n, channels, 6, 7), dtype=np.uint8) for n in (20, 4))
    first = read(tmp_path, x_train=train, x_test=test)
    last = read(tmp_path, x_train=train.transpose(0, 2, 3, 1), x_test=test.transpose(0, 2, 3, 1))
    rows = list(range(20))
    assert first.channels == last.channels == channels
    assert torch.equal(first.train.__getitems__(rows)[0], last.train.__getitems__(rows)[0])


def test_floats_give_the_same_pixels(tmp_path):
    whole = arrays()
    same = read(tmp_path, **{k: (whole[k] / 255).astype(np.float32) for k in ("x_train", "x_test")})
    expected = read(tmp_path).train.__getitems__([0, 1])[0]
    assert torch.equal(same.train.__getitems__([0, 1])[0], expected)


def test_column_of_labels_is_accepted(tmp_path):
    assert len(read(tmp_path, y_train=(np.arange(20) % 2)[:, None]).train) == 20


BAD = {
    "missing": ({"y_test": None}, "lacks y_test: it must hold x_train, y_train, x_test, y_test"),
    "dimensions": ({"x_train": np.zeros((20, 6), np.uint8)}, r"x_train has shape \[20, 6\]"),
    "empty": ({"x_test": np.zeros((0, 6, 7), np.uint8)}, r"x_test holds no images"),
    "channels": ({"x_train": np.zeros((20, 6, 7, 8), np.uint8)}, "does not tell where the chan"),
    "ambiguous": ({"x_train": np.zeros((20, 3, 9, 3), np.uint8)}, "does not tell where the chan"),
    "sizes": ({"x_test": np.zeros((4, 5, 7), np.uint8)}, r"x_test \[1, 5, 7\]"),
    "integers": ({"x_train": np.zeros((20, 6, 7), np.int64)}, "type int64; they must be uint8"),
    "nan": ({"x_train": np.full((20, 6, 7), np.nan)}, "x_train holds values that are NaN"),
    "range": ({"x_train": np.full((20, 6, 7), 255.0)}, "floats from 255 to 255; floats must lie"),
    "lengths": ({"y_train": np.zeros(19, int)}, "y_train holds 19 labels for 20 images"),
    "fractions": ({"y_train": np.full(20, 0.5)}, "y_train has type float64; labels must be int"),
    "one-hot": ({"y_train": np.zeros((20, 2), int)}, r"y_train has shape \[20, 2\]"),
    "negative": ({"y_train": np.full(20, -1)}, "label -1, which is out of range"),
    "large": ({"y_train": np.full(20, 2**63 + 5, np.uint64)}, "label 9223372036854775813, which"),
    "durations": (
        {"y_test": np.zeros(4, "m8[s]")},
        r"type timedelta64\[s\]; labels must be int",
    ),
    "gap": ({"y_train": np.arange(20) % 2 + 1}, "none is 0; labels must be 0 to classes - 1"),
    "unseen": ({"y_test": np.array([0, 1, 2, 0])}, "label 2, which is out of range: .* 0 to 1"),
    "objects": ({"x_train": np.array([{}] * 20, dtype=object)}, "Python objects, which are refu"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_archives_are_refused_in_one_sentence(tmp_path, case):
    changes, message = BAD[case]
    with pytest.raises(StbpError, match=message) as caught:
        read(tmp_path, **changes)
    assert caught.value.exit_code == 1
    assert "\n" not in str(caught.value)


def test_a_member_that_is_no_array(tmp_path):
    np.savez(tmp_path / "set.npz", **arrays(x_train=None))
    with zipfile.ZipFile(tmp_path / "set.npz", "a") as archive:
        archive.writestr("x_train.npy", b"anything else")
    with pytest.raises(StbpError, match=r"x_train is damaged or holds Python objects"):
        load(f"npz:{tmp_path / 'set.npz'}", data_dir=tmp_path)


def test_files_that_are_no_archives(tmp_path):
    for name, content, message in (
        ("text.npz", b"hello", "is not a readable numpy archive"),
        ("empty.npz", b"", "is not a readable numpy archive"),
        ("cut.npz", None, "is not a readable numpy archive"),
    ):
        if content is None:
            np.savez(tmp_path / "whole.npz", **arrays())
            content = (tmp_path / "whole.npz").read_bytes()[:-300]
        (tmp_path / name).write_bytes(content)
        with pytest.raises(StbpError, match=message):
            load(f"npz:{tmp_path / name}", data_dir=tmp_path)
    with (tmp_path / "single.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(StbpError, match=r"holds a single array"):
        load(f"npz:{tmp_path / 'single.npz'}", data_dir=tmp_path)
    with pytest.raises(StbpError, match=r"No such file: .*absent.npz"):
        load(f"npz:{tmp_path / 'absent.npz'}", data_dir=tmp_path)


def test_damage_inside_an_archive_is_found(tmp_path):
    np.savez_compressed(tmp_path / "set.npz", **arrays())
    content = bytearray((tmp_path / "set.npz").read_bytes())
    content[200:260] = bytes(60)
    (tmp_path / "set.npz").write_bytes(content)
    with pytest.raises(StbpError, match=r"x_train is damaged"):
        load(f"npz:{tmp_path / 'set.npz'}", data_dir=tmp_path)


def _changed(path, name, change):
    """An archive in which the entry `name` is changed: its header and what stands for it."""
    np.savez(path, **arrays())
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo(name).header_offset
    content = bytearray(path.read_bytes())
    central = content.index(b"PK\x01\x02")
    while content[central + 46 : central + 46 + len(name)] != name.encode():
        central = content.index(b"PK\x01\x02", central + 4)
    for offset, value in change.items():  # of the local header; 2 more in the central directory
        content[start + offset] = value
        content[central + offset + 2] = value
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({6: 0x01}, "x_train is encrypted, or packed in a way that Python does not read"),
        ({6: 0x20}, "x_train is encrypted, or packed in a way that Python does not read"),
        ({8: 99}, "x_train is encrypted, or packed in a way that Python does not read"),
    ],
)
def test_archives_that_python_does_not_unpack(tmp_path, change, message):
    _changed(tmp_path / "set.npz", "x_train.npy", change)
    with pytest.raises(StbpError, match=message) as caught:
        load(f"npz:{tmp_path / 'set.npz'}", data_dir=tmp_path)
    assert caught.value.exit_code == 1


def test_an_array_that_claims_to_be_larger_than_memory(tmp_path):
    np.savez(tmp_path / "set.npz", **arrays(x_train=np.zeros((20, 8, 8), np.uint8)))
    with zipfile.ZipFile(tmp_path / "set.npz") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (10**13, 8, 8)}
    )
    parts["x_train.npy"] = header.getvalue() + bytes(20 * 8 * 8)
    with zipfile.ZipFile(tmp_path / "set.npz", "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    with pytest.raises(StbpError, match="x_train claims to be larger than memory: it is damaged"):
        load(f"npz:{tmp_path / 'set.npz'}", data_dir=tmp_path)


def test_real_mnist(tmp_path):
    if not MNIST.exists():
        pytest.skip(f"{MNIST} is missing")
    bundle = load(f"npz:{MNIST}", data_dir=tmp_path, seed=3)
    assert (len(bundle.train), len(bundle.val), len(bundle.test)) == (54000, 6000, 10000)
    assert (bundle.channels, bundle.image_size, len(bundle.classes)) == (1, (28, 28), 10)
    assert bundle.val_name == "held-out 10 % of train"
    x, y = bundle.test.__getitems__(list(range(10000)))
    assert y[:5].tolist() == [7, 2, 1, 0, 4]
    assert float(x.mean()) == pytest.approx(0.1325, abs=1e-3)


def frames(**changes):
    """Events of 20 and 4 recordings, at 3 steps."""
    random = np.random.default_rng(2)
    train, test = (random.integers(0, 9, (n, 3, 2, 6, 7), dtype=np.uint8) for n in (20, 4))
    return arrays(x_train=train, x_test=test, **changes)


def read_frames(tmp_path, steps=3, **changes):
    given, spec = frames(), tmp_path / "frames.npz"
    np.savez(spec, **{**given, **changes})
    return load(f"npz:{spec}", data_dir=tmp_path, num_steps=steps, validate_on_test=True)


def test_frames_of_events_are_counts(tmp_path):
    bundle = read_frames(tmp_path)
    assert (bundle.kind, bundle.channels, bundle.image_size) == ("event", 2, (6, 7))
    assert (bundle.input_max, len(bundle.train), len(bundle.test)) == (255.0, 20, 4)
    assert "frames of 3 time steps" in bundle.source
    x, y = bundle.train.__getitems__([3, 0])
    expected = torch.from_numpy(frames()["x_train"][[3, 0]]).float()
    assert x.is_contiguous()
    assert torch.equal(x, expected.transpose(0, 1))
    assert y.tolist() == [1, 0]
    assert torch.equal(bundle.train[3][0], expected[0])
    part = bundle.train.subset(torch.tensor([3]))
    assert torch.equal(part.__getitems__([0])[0][:, 0], expected[0])


def test_frames_of_floats_are_images(tmp_path):
    shares = {name: frames()[name] / np.float32(8) for name in ("x_train", "x_test")}
    bundle = read_frames(tmp_path, **shares)
    assert (bundle.kind, bundle.input_max) == ("event", 1.0)
    x, _ = bundle.train.__getitems__([3])
    expected = (torch.from_numpy(shares["x_train"][3]) * 255).round() / 255
    assert torch.equal(x[:, 0], expected)


def test_frames_are_resized(tmp_path):
    np.savez(tmp_path / "f.npz", **frames())
    spec = f"npz:{tmp_path / 'f.npz'}"
    bundle = load(spec, data_dir=tmp_path, num_steps=3, image_size=(3, 4), validate_on_test=True)
    x, _ = bundle.train.__getitems__([3])
    assert (bundle.image_size, x.shape) == ((3, 4), (3, 1, 2, 3, 4))
    alone = torch.from_numpy(frames()["x_train"][3])
    assert torch.equal(x[:, 0], resize(alone, (3, 4)).float())


@pytest.mark.parametrize(
    ("steps", "changes", "message"),
    [
        (2, {}, r"x_train holds 3 frames a sample, .*2 time steps: give --steps 3"),
        (3, {"x_test": frames()["x_test"][:, :2]}, r"\(steps, channels, height, width\)"),
        (3, {"x_test": frames()["x_test"] / 255}, r"x_train is uint8 and x_test float64"),
        (3, {"x_test": frames()["x_test"][:, 0]}, r"must be alike"),
        (3, {"x_train": frames()["x_train"] * 1.0}, r"x_train is float64 and x_test uint8"),
    ],
)
def test_frames_that_do_not_fit(tmp_path, steps, changes, message):
    with pytest.raises(StbpError, match=message):
        read_frames(tmp_path, steps, **changes)


def test_a_run_on_frames_is_trained_and_exported(tmp_path):
    random = np.random.default_rng(3)
    labels = np.arange(120) % 3
    rates = np.zeros((3, 1, 2, 8, 8))
    rates[[0, 1, 2], :, [0, 1, 0], :, 2:6] = 0.5
    rates[2, :, :, 2:6] = 0.5
    events = random.binomial(4, rates[labels].repeat(4, 1)).astype(np.uint8)
    np.savez(
        tmp_path / "ev.npz", x_train=events[:90], y_train=labels[:90], x_test=events[90:],
        y_test=labels[90:],
    )  # fmt: skip
    train = ("train", "mnistnet_bn", "--dataset", f"npz:{tmp_path / 'ev.npz'}", "--bits", "4")
    options = ("--epochs", "8", "--batch-size", "15", "--out", str(tmp_path), "--quiet")
    result = CliRunner().invoke(main, [*train, "--steps", "4", *options])
    assert result.exit_code == 0, result.output
    run = result.stdout.strip()
    result = CliRunner().invoke(main, ["evaluate", run, "--fixed-point", "--json"])
    measured = json.loads(result.stdout.splitlines()[-1])
    assert measured["accuracy"] > 0.9
    assert measured["predictions_differ"] == 0
    options = ("--fixed-point", "--form", "step", "--verify", "2")
    assert CliRunner().invoke(main, ["export", run, *options]).exit_code == 0


def test_data_of_a_relative_path_are_meant_from_where_the_run_was_begun(
    small_digits, tmp_path, monkeypatch
):
    data = Path(small_digits.partition(":")[2])
    monkeypatch.chdir(data.parent)
    config = make_config(f"npz:{data.name}", epochs=1)
    run = str(fit(config, out=tmp_path, reporter=Reporter())["run"])
    monkeypatch.chdir(tmp_path)
    wanted = (
        f"Error: there is no '{data.name}' here: '{run}' names its data from the folder in which "
        f"it was begun; go there, or measure it with `evaluate --dataset npz:PATH`.\n"
    )
    for command in (("evaluate", run), ("train", "--resume", run, "--epochs", "2")):
        assert call(*command) == (1, wanted)
    assert call("evaluate", run, "--dataset", small_digits)[0] == 0
    code, output = call("evaluate", run, "--dataset", "npz:gone.npz")
    assert (code, "No such file: gone.npz" in output) == (1, True), output
