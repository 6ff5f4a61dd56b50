"""Frames of recordings on disk, so that a recording is read once and not at every epoch."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...files import UNREADABLE


@dataclass(frozen=True)
class FrameCache:
    """A folder of frames, a file for each recording.

    A file holds two arrays of numpy one behind the other: size and time of change that the
    recording had, int64 `[2]`, then its frames, uint8. Frames of a recording that has changed are
    those of another, and are replaced.

    Attributes:
        folder: Where they are.
        shape: Of the frames, `(T, 2, H, W)`.
    """

    folder: Path
    shape: tuple[int, ...]

    def read(self, name: Path, stat: os.stat_result) -> np.ndarray | None:
        """Frames of the recording called `name`, or `None`: absent, out of date or damaged."""
        with suppress(*UNREADABLE), open(self._file(name), "rb") as file:
            stamp = np.load(file, allow_pickle=False)
            if np.array_equal(stamp, _stamp(stat)):
                frames = np.load(file, allow_pickle=False)
                if frames.shape == self.shape and frames.dtype == np.uint8:
                    return np.asarray(frames)
        return None

    def write(self, name: Path, stat: os.stat_result, frames: np.ndarray) -> None:
        """Keep frames, under another name first, so that no reader meets half a file."""
        path = self._file(name)
        with suppress(OSError):  # a full or read-only disk costs the cache, not the run
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f".{path.name}.{os.getpid()}.part")
            try:
                with open(part, "wb") as file:
                    np.save(file, _stamp(stat))
                    np.save(file, frames)
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)

    def _file(self, name: Path) -> Path:
        return self.folder / name.with_name(f"{name.name}.frames.npy")


def _stamp(stat: os.stat_result) -> np.ndarray:
    return np.array([stat.st_size, stat.st_mtime_ns], dtype=np.int64)
