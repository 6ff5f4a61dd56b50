"""Event recordings: tonic's own formats, counted right, kept lazily, never fetched unasked."""

import dataclasses
import pickle
import struct
import sys

import numpy as np
import pytest
import torch

from snntorch_stbp.errors import StbpError, UsageError
from snntorch_stbp.train.data import events, load, make_loader
from snntorch_stbp.train.data.frames import to_frames

FIELDS = [("x", int), ("y", int), ("t", int), ("p", int)]


def recording(seed, count=200, side=34, duration=300):
    """Random events in order of time, one of them at the very start."""
    random = np.random.default_rng(seed)
    made = np.zeros(count, dtype=FIELDS)
    made["x"], made["y"] = random.integers(0, side, (2, count))
    made["t"] = np.sort(random.integers(0, duration, count))
    made["t"][[0, -1]] = 0, duration - 1
    made["p"] = random.integers(0, 2, count)
    return made


def counted(made, steps, duration, side):
    """Frames one event at a time."""
    frames = torch.zeros(steps, 2, side, side)
    for x, y, t, p in made.tolist():
        frames[t * steps // duration, p, y, x] += 1
    return frames


def write_atis(path, made):
    """N-MNIST's format: 5 bytes an event, x, y, then polarity and 23 bits of time.

    With the time's high part in overflow events (y = 240), each of which adds 2^13.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    rows, overflows = [], 0
    for x, y, t, p in made.tolist():
        while t - overflows * 2**13 >= 2**13:
            rows.append((0, 240, 0, 0, 0))
            overflows += 1
        t -= overflows * 2**13
        rows.append((x, y, p << 7 | t >> 16, t >> 8 & 255, t & 255))
    path.write_bytes(np.array(rows, dtype=np.uint8).tobytes())


INFO = """<dv version="2.0"><node name="outInfo" path="/mainloop/Recorder/outInfo/">
<node name="0" path="/mainloop/Recorder/outInfo/0/">
<attr key="compression" type="string">NONE</attr>
<attr key="typeIdentifier" type="string">EVTS</attr>
<node name="info" path="/mainloop/Recorder/outInfo/0/info/">
<attr key="sizeX" type="int">128</attr><attr key="sizeY" type="int">128</attr>
</node></node></node></dv>"""


def write_aedat4(path, made):
    """CIFAR10-DVS's format, AEDAT 4: a header and packets of events, as flatbuffers."""
    flatbuffers = pytest.importorskip("flatbuffers")
    pytest.importorskip("aedat")
    path.parent.mkdir(parents=True, exist_ok=True)
    builder = flatbuffers.Builder()
    info = builder.CreateString(INFO)
    builder.StartObject(3)  # compression, position of the data table, description
    builder.PrependInt32Slot(0, 0, 1)
    builder.PrependInt64Slot(1, -1, 0)
    builder.PrependUOffsetTRelativeSlot(2, info, 0)
    builder.FinishSizePrefixed(builder.EndObject(), file_identifier=b"IOHE")
    header = bytes(builder.Output())
    builder = flatbuffers.Builder()
    builder.StartVector(16, len(made), 8)
    for x, y, t, p in reversed(made.tolist()):  # a struct of 16 bytes, written from its end
        builder.Prep(8, 16)
        builder.Pad(3)
        builder.PrependBool(bool(p))
        builder.PrependInt16(y)
        builder.PrependInt16(x)
        builder.PrependInt64(t)
    events_of_packet = builder.EndVector()
    builder.StartObject(1)
    builder.PrependUOffsetTRelativeSlot(0, events_of_packet, 0)
    builder.FinishSizePrefixed(builder.EndObject(), file_identifier=b"EVTS")
    packet = bytes(builder.Output())
    size = struct.pack("<ii", 0, len(packet))  # of stream 0
    path.write_bytes(b"#!AER-DAT4.0\r\n" + header + size + packet)


@pytest.fixture
def small(monkeypatch):
    """Accept tiny copies of the sets as complete."""
    for name, source in list(events.SOURCES.items()):
        few = dataclasses.replace(source, recordings=tuple(4 for _ in source.folders))
        monkeypatch.setitem(events.SOURCES, name, few)


@pytest.fixture
def nmnist(tmp_path, small):
    """Two digits, three training and two test recordings each, longer than 2^13 us."""
    pytest.importorskip("tonic")
    for folder, count in (("Train", 3), ("Test", 2)):
        for digit in range(2):
            for i in range(count):
                made = recording(digit * 10 + i, duration=30000)
                write_atis(tmp_path / "NMNIST" / folder / str(digit) / f"{i:05d}.bin", made)
    return tmp_path


def test_frames_equal_tonics():
    transforms = pytest.importorskip("tonic.transforms")
    made = recording(0, duration=400)
    made["t"] = made["t"] // 100 * 100 + 50  # inside the bins, whose edges each rounds its own way
    made["t"][[0, -1]] = 0, 400
    theirs = transforms.ToFrame(sensor_size=(34, 34, 2), n_time_bins=4)(made)
    ours = to_frames(made, 4, (34, 34), (34, 34))
    ours[-1] -= to_frames(made[-1:], 1, (34, 34), (34, 34))[0]  # tonic drops the last instant
    assert np.array_equal(ours, theirs)


def test_frames_add_up_when_smaller_and_stop_at_255():
    made = recording(1, count=5000)
    full = to_frames(made, 3, (34, 34), (34, 34)).astype(int)
    half = to_frames(made, 3, (34, 34), (17, 17))
    assert np.array_equal(full.reshape(3, 2, 17, 2, 17, 2).sum((3, 5)), half)
    made["x"] = made["y"] = made["p"] = 0
    assert to_frames(made, 1, (34, 34), (34, 34))[0, 0, 0, 0] == 255
    assert to_frames(made[:0], 2, (34, 34), (5, 6)).shape == (2, 2, 5, 6)
    assert to_frames(made[:1], 2, (34, 34), (34, 34)).sum() == 1
    made["x"][0] = 34
    with pytest.raises(ValueError, match=r"outside the 34x34 sensor"):
        to_frames(made, 1, (34, 34), (34, 34))


def test_nmnist_files_become_frames(nmnist):
    bundle = load("nmnist", data_dir=nmnist, num_steps=5, validate_on_test=True)
    assert (bundle.kind, bundle.channels, bundle.image_size) == ("event", 2, (34, 34))
    assert (bundle.input_max, len(bundle.train), len(bundle.test)) == (255.0, 6, 4)
    x, y = bundle.train.__getitems__([0, 4])
    assert x.shape == (5, 2, 2, 34, 34)
    assert x.dtype == torch.float32
    assert y.tolist() == [0, 1]
    assert torch.equal(x[:, 0], counted(recording(0, duration=30000), 5, 30000, 34))
    assert torch.equal(x[:, 1], counted(recording(11, duration=30000), 5, 30000, 34))
    sample, label = bundle.train[4]
    assert torch.equal(sample, x[:, 1])
    assert label == 1


def test_validation_part_and_loader_with_workers(nmnist):
    bundle = load("nmnist", data_dir=nmnist, num_steps=2, val_fraction=0.34)
    assert (len(bundle.train), len(bundle.val)) == (4, 2)
    batches = {
        workers: list(make_loader(bundle.train, batch_size=2, shuffle=True, seed=0, epoch=0,
                                  workers=workers, drop_last=True))
        for workers in (0, 1)
    }  # fmt: skip
    for (x, y), (x2, y2) in zip(*batches.values(), strict=True):
        assert x.shape == (2, 2, 2, 34, 34)
        assert torch.equal(x, x2)
        assert torch.equal(y, y2)


def test_data_sets_can_be_sent_to_spawned_workers(nmnist):
    train = load("nmnist", data_dir=nmnist, num_steps=2).train
    assert torch.equal(pickle.loads(pickle.dumps(train))[0][0], train[0][0])


def test_frames_are_kept_on_disk_and_survive_damage(nmnist, monkeypatch):
    train = load("nmnist", data_dir=nmnist, num_steps=2, image_size=17).train
    first = train[0][0]
    kept = sorted((nmnist / "frames" / "nmnist-t2-17x17").rglob("*.npy"))
    assert kept
    for file in kept:
        file.write_bytes(file.read_bytes()[:100])
    assert torch.equal(train[0][0], first)
    monkeypatch.setattr(events, "to_frames", None)  # nothing is read again
    assert torch.equal(train[0][0], first)
    assert not list(nmnist.rglob("*.part"))


def test_frames_of_a_recording_that_changed_are_made_anew(nmnist):
    def frames():
        return load("nmnist", data_dir=nmnist, num_steps=2, validate_on_test=True).train[0][0]

    file = nmnist / "NMNIST" / "Train" / "0" / "00000.bin"
    assert frames().sum() == 200
    write_atis(file, recording(0, count=100, duration=30000))
    assert frames().sum() == 100
    for seed in (8, 9):  # of the same length
        write_atis(file, recording(seed, duration=300))
        assert torch.equal(frames(), counted(recording(seed, duration=300), 2, 300, 34))
    assert [file.name for file in nmnist.rglob("00000.bin.*")] == ["00000.bin.frames.npy"]


def test_a_recording_that_is_gone_is_named(nmnist):
    bundle = load("nmnist", data_dir=nmnist, num_steps=2, validate_on_test=True)
    (nmnist / "NMNIST" / "Train" / "1" / "00002.bin").unlink()
    with pytest.raises(StbpError, match=r"00002.bin cannot be read \(No such file or directory"):
        bundle.train[5]


def test_a_recording_that_was_cut_says_so(nmnist):
    bundle = load("nmnist", data_dir=nmnist, num_steps=2, validate_on_test=True)
    file = nmnist / "NMNIST" / "Train" / "1" / "00002.bin"
    file.write_bytes(file.read_bytes()[:503])
    with pytest.raises(StbpError, match="503 bytes are no whole number of 5-byte events"):
        bundle.train[5]


@pytest.mark.parametrize(
    "stray", ["user1_led/._0.npy", ".ipynb_checkpoints/0.npy", "user1_led/a.npy"]
)
def test_what_is_no_recording_is_named(tmp_path, small, stray):
    pytest.importorskip("tonic")
    for part in ("ibmGestureTrain", "ibmGestureTest"):
        place = tmp_path / "DVSGesture" / part / "user1_led"
        place.mkdir(parents=True)
        for label in range(4):
            np.save(place / f"{label}.npy", np.zeros((5, 4)))
    file = tmp_path / "DVSGesture" / "ibmGestureTest" / stray
    file.parent.mkdir(exist_ok=True)
    file.touch()
    hidden = stray.startswith(".") or "/." in stray
    named = (
        r"'.*\.(_0.npy|ipynb_checkpoints)' is none, remove it"
        if hidden
        else "take out what is none"
    )
    with pytest.raises(
        StbpError, match=rf"ibmGestureTest is to hold recordings of dvsgesture: {named}"
    ):
        load("dvsgesture", data_dir=tmp_path)


def test_an_unwritable_cache_costs_nothing_but_time(nmnist):
    (nmnist / "frames").write_text("a file where the folder should be")
    bundle = load("nmnist", data_dir=nmnist, num_steps=2)
    assert torch.equal(bundle.train[0][0], bundle.train[0][0])


def test_damaged_recordings_are_named(nmnist):
    bundle = load("nmnist", data_dir=nmnist, num_steps=2, validate_on_test=True)
    (nmnist / "NMNIST" / "Train" / "1" / "00002.bin").write_bytes(bytes([200, 200, 0, 0, 1]))
    with pytest.raises(StbpError, match=r"1.00002.bin cannot be read .*outside the 34x34 sensor"):
        bundle.train[5]


def test_dvsgesture_files_become_frames(tmp_path, small):
    pytest.importorskip("tonic")
    for folder in ("ibmGestureTrain", "ibmGestureTest"):
        for user in ("user10_fluorescent", "user2_led"):
            place = tmp_path / "DVSGesture" / folder / user
            place.mkdir(parents=True)
            for label in (0, 10):
                made = recording(label, side=128)
                columns = np.stack([made[f] for f in ("x", "y", "p", "t")], axis=1)
                np.save(place / f"{label}.npy", columns.astype(np.float64))
    bundle = load("dvsgesture", data_dir=tmp_path, num_steps=4, validate_on_test=True)
    assert (bundle.channels, bundle.image_size, len(bundle.classes)) == (2, (128, 128), 11)
    assert bundle.train.labels.tolist() == [0, 10, 0, 10]
    first = bundle.train.recordings.data[int(bundle.train.index[0])]
    assert "user2_led" in first  # 2 before 10
    x, y = bundle.train.__getitems__([1])
    # Times come in milliseconds and are spread to microseconds: the last bin ends 999 us earlier.
    made = recording(10, side=128)
    made["t"] *= 1000
    assert torch.equal(x[:, 0], counted(made, 4, 299001, 128))
    assert y.tolist() == [10]


def test_cifar10dvs_is_split_by_a_fixed_rule(tmp_path, small):
    pytest.importorskip("tonic")
    for label in ("airplane", "truck"):
        place = tmp_path / "CIFAR10DVS" / label
        place.mkdir(parents=True)
        for i in range(20):
            write_aedat4(place / f"cifar10_{label}_{i}.aedat4", recording(3, side=128))
    for seed in (0, 1):
        bundle = load("cifar10dvs", data_dir=tmp_path, num_steps=3, seed=seed)
        assert len(bundle.train) + len(bundle.val) == 36
        files = [bundle.test.recordings.data[i].split("_")[-1] for i in bundle.test.index]
        assert files == ["18.aedat4", "19.aedat4"] * 2
        assert bundle.test.labels.tolist() == [0, 0, 9, 9]
    assert torch.equal(bundle.test[0][0], counted(recording(3, side=128), 3, 300, 128))


@pytest.mark.parametrize("package", ["tonic.datasets", "aedat"])
def test_missing_packages_name_the_extra(tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    message = r"cifar10dvs needs tonic and aedat .*: pip install snntorch-stbp\[events\]"
    with pytest.raises(StbpError, match=message):
        load("cifar10dvs", data_dir=tmp_path)


@pytest.mark.parametrize("name", ["nmnist", "dvsgesture"])
def test_missing_or_partial_sets_are_not_fetched(tmp_path, name, monkeypatch):
    tonic = pytest.importorskip("tonic")
    source = events.SOURCES[name]
    part = tmp_path / source.kind / source.folders[0] / "0"
    for _ in range(2):
        with pytest.raises(StbpError, match=rf"{name} was not found: looked for .*--download"):
            load(name, data_dir=tmp_path)
        part.mkdir(parents=True, exist_ok=True)
        (part / f"0{source.ending}").touch()

    def offline(self):
        raise OSError("no route to host")

    monkeypatch.setattr(getattr(tonic.datasets, source.kind), "download", offline)
    with pytest.raises(StbpError, match=rf"Could not download {name} into .*: no route to host"):
        load(name, data_dir=tmp_path, download=True)


def test_impossible_options(tmp_path):
    with pytest.raises(UsageError, match=r"nmnist cannot be enlarged to 64x64; .* at most 34x34"):
        load("nmnist", data_dir=tmp_path, image_size=64)
    with pytest.raises(UsageError, match=r"time steps must be at least 1, not 0"):
        load("nmnist", data_dir=tmp_path, num_steps=0)
