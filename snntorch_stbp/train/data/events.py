"""Event-camera recordings through tonic, read when they are needed, as frames of counts."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ...errors import StbpError, UsageError
from .arrays import Parts
from .dvs128 import FOLDER, Gestures, find
from .frame_cache import FrameCache
from .frames import to_frames


@dataclass(frozen=True)
class EventSource:
    """How tonic keeps a data set.

    Attributes:
        kind: class in `tonic.datasets`, and folder under data_dir.
        ending: of the files that hold one recording each.
        folders: of the training and of the test part; one folder is split 90/10.
        recordings: number of files that makes a part complete, for each folder.
        sensor: (height, width).
        needs: packages that reading it takes.
        event: bytes of an event, of which files consist; 0 of other formats.
    """

    kind: str
    ending: str
    folders: tuple[str, ...]
    recordings: tuple[int, ...]
    sensor: tuple[int, int]
    needs: tuple[str, ...] = ("tonic",)
    event: int = 0


SOURCES: dict[str, EventSource] = {
    "nmnist": EventSource("NMNIST", ".bin", ("Train", "Test"), (60000, 10000), (34, 34), event=5),
    "dvsgesture": EventSource(
        "DVSGesture", ".npy", ("ibmGestureTrain", "ibmGestureTest"), (1077, 264), (128, 128)
    ),
    "cifar10dvs": EventSource(
        "CIFAR10DVS", ".aedat4", ("",), (10000,), (128, 128), ("tonic", "aedat")
    ),
}


class EventDataset(Dataset[tuple[Tensor, Tensor]]):
    """Recordings on disk, turned into frames when fetched.

    Args:
        name: key of `SOURCES`.
        recordings: a tonic data set, or `Gestures`: `recordings[i]` is `(events, label)`,
            `recordings.data[i]` the path of its file, `recordings.targets[i]` its label.
        index: int64 `[M]`, the recordings that belong to this set.
        num_steps: time bins T.
        size: (height, width) of the frames.
        cache: folder where frames are kept; None keeps none.

    A sample is float32 `[T, 2, H, W]`, counts from 0 to 255, and its label; a list of indices
    fetches the batch `[T, B, 2, H, W]`, `[B]`.
    """

    def __init__(
        self,
        name: str,
        recordings: Any,
        index: Tensor,
        *,
        num_steps: int,
        size: tuple[int, int],
        cache: Path | None,
    ) -> None:
        self.name = name
        self.recordings = recordings
        self.index = index
        self.num_steps = num_steps
        self.size = size
        self.cache = cache
        self.kept = None if cache is None else FrameCache(cache, (num_steps, 2, *size))
        self.all_labels = torch.tensor(recordings.targets, dtype=torch.int64)

    @property
    def labels(self) -> Tensor:
        """Class of every sample, int64 `[N]`."""
        return self.all_labels[self.index]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        row = int(self.index[index])
        return torch.from_numpy(self._frames(row)).to(torch.float32), self.all_labels[row]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        rows = self.index[torch.as_tensor(indices, dtype=torch.int64)]
        frames = [torch.from_numpy(self._frames(row)) for row in rows.tolist()]
        return torch.stack(frames, dim=1).to(torch.float32), self.all_labels[rows]

    def subset(self, indices: Tensor) -> EventDataset:
        """The recordings at `indices` (int64 `[M]`)."""
        return EventDataset(
            self.name,
            self.recordings,
            self.index[indices],
            num_steps=self.num_steps,
            size=self.size,
            cache=self.cache,
        )

    def _frames(self, row: int) -> np.ndarray:
        """Frames of one recording, uint8 `[T, 2, H, W]`, from the cache where it has them."""
        file = Path(self.recordings.data[row])
        try:
            stat = file.stat()
        except OSError as error:
            raise StbpError(f"The recording {file} cannot be read ({error.strerror}).") from error
        name = file.relative_to(self.recordings.location_on_system)
        if isinstance(self.recordings, Gestures):  # several to a file
            name = name.with_name(f"{name.name}.{self.recordings.trials[row]}")
        kept = None if self.kept is None else self.kept.read(name, stat)
        if kept is not None:
            return kept
        try:
            events = self.recordings[row][0]
            frames = to_frames(events, self.num_steps, SOURCES[self.name].sensor, self.size)
        except Exception as error:  # readers raise many kinds for a damaged file
            reason, event = str(error), SOURCES[self.name].event
            if event and stat.st_size % event:
                reason = f"{stat.st_size} bytes are no whole number of {event}-byte events"
            raise StbpError(f"The recording {file} cannot be read ({reason}).") from error
        if self.kept is not None:
            self.kept.write(name, stat, frames)
        return frames


def load_events(
    name: str,
    data_dir: Path,
    *,
    num_steps: int,
    size: tuple[int, int] | None = None,
    download: bool = False,
) -> Parts:
    """N-MNIST, DVS Gesture or CIFAR10-DVS, through tonic.

    DVS Gesture is also read from IBM's own files, see `dvs128`, where tonic's copy is not there.
    Recordings are read when they are fetched; their frames are kept in
    `data_dir/frames/NAME-tT-HxW` from then on. CIFAR10-DVS has no official split: of each
    class, in the order of the recordings' numbers, the first 90 % train and the rest test.

    Args:
        name: key of `SOURCES`.
        data_dir: holds the folder of tonic's class (NMNIST, DVSGesture, CIFAR10DVS).
        num_steps: time bins T.
        size: (height, width) of the frames, at most the sensor's; None takes the sensor's.
        download: whether to fetch what is missing; nothing is ever fetched without it.

    Raises:
        UsageError: `num_steps` or `size` out of range.
        StbpError: tonic or the recordings are missing, or cannot be fetched.
    """
    source = SOURCES[name]
    size = source.sensor if size is None else size
    if num_steps < 1:
        raise UsageError(f"The number of time steps must be at least 1, not {num_steps}.")
    if size[0] > source.sensor[0] or size[1] > source.sensor[1]:
        raise UsageError(
            f"Event frames of {name} cannot be enlarged to {size[0]}x{size[1]}; choose an image "
            f"size of at most {source.sensor[0]}x{source.sensor[1]}."
        )
    cache = data_dir / "frames" / f"{name}-t{num_steps}-{size[0]}x{size[1]}"
    origin = f"tonic {source.kind} in {data_dir / source.kind}"
    own = find(data_dir) if name == "dvsgesture" else None
    if own is not None and not (data_dir / source.kind / source.folders[0]).is_dir():
        gestures = [Gestures(own, part) for part in (0, 1)]
        parts = [(each, torch.arange(len(each))) for each in gestures]
        origin = f"IBM's recordings in {own}"
    else:
        parts = [_recordings(name, data_dir, part, download) for part in range(len(source.folders))]
    if len(parts) == 2:
        (train, train_rows), (test, test_rows) = parts
    else:
        train, rows = parts[0]
        test = train
        train_rows, test_rows = _split(rows, torch.tensor(train.targets)[rows])
    make = partial(EventDataset, name, num_steps=num_steps, size=size, cache=cache)
    return Parts(
        make(train, train_rows),
        make(test, test_rows),
        [re.sub(r" - .*", "", label) for label in train.classes],
        f"{origin}, frames of {num_steps} time bins",
        input_max=255.0,
    )


def _recordings(name: str, data_dir: Path, part: int, download: bool) -> tuple[Any, Tensor]:
    """A part as tonic reads it, and its rows in the natural order of the files' names."""
    source = SOURCES[name]
    try:
        base = getattr(importlib.import_module("tonic.datasets"), source.kind)
        for package in source.needs:
            importlib.import_module(package)
    except ImportError as error:
        raise StbpError(
            f"Data set {name} needs {' and '.join(source.needs)} ({error}): "
            "pip install snntorch-stbp[events]"
        ) from error

    def complete(self: Any) -> bool:
        # Also without the archive, which a user may have deleted, unlike tonic's own check.
        return bool(
            self._folder_contains_at_least_n_files_of_type(source.recordings[part], source.ending)
        )

    place = data_dir / source.kind / source.folders[part]

    def fetch(self: Any) -> None:
        if not download:
            own = f", or unpack IBM's archive to {data_dir / FOLDER}" * (name == "dvsgesture")
            raise StbpError(
                f"Data set {name} was not found: looked for {source.recordings[part]} "
                f"{source.ending} files in {place}; add --download to fetch it, or point "
                f"--data-dir to where it is{own}."
            )
        fetched.append(part)
        base.download(self)

    fetched: list[int] = []
    # tonic names the folder after the class and downloads whatever it deems missing, unasked.
    guarded = type(base.__name__, (base,), {"_check_exists": complete, "download": fetch})
    split = {"train": part == 0} if len(source.folders) == 2 else {}
    try:
        recordings = guarded(save_to=str(data_dir), **split)
    except StbpError:
        raise
    except Exception as error:  # network, disk and archives fail in many ways
        reason = " ".join(str(error).split())
        if fetched:
            raise StbpError(f"Could not download {name} into {data_dir}: {reason}") from error
        stray = next((p for p in sorted(place.rglob("*")) if p.name.startswith(".")), None)
        remedy = "take out what is none" if stray is None else f"'{stray}' is none, remove it"
        raise StbpError(f"{place} is to hold recordings of {name}: {remedy} ({reason}).") from error
    recordings.__class__ = base  # a class that worker processes can import
    files = [str(file) for file in recordings.data]
    order = sorted(range(len(files)), key=lambda i: _natural(files[i]))
    return recordings, torch.tensor(order, dtype=torch.int64)


def _natural(path: str) -> list[tuple[int, str]]:
    """Sort key that puts `cat_2` before `cat_10`."""
    return [(int(p), "") if p.isdigit() else (-1, p) for p in re.split(r"(\d+)", path)]


def _split(rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The first 90 % of each class, and the rest; `rows` and their `labels` are in order."""
    first: list[Tensor] = []
    rest: list[Tensor] = []
    for label in labels.unique():
        members = rows[labels == label]
        cut = len(members) * 9 // 10
        first.append(members[:cut])
        rest.append(members[cut:])
    return torch.cat(first), torch.cat(rest)
