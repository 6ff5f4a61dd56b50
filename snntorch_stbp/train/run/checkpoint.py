"""Checkpoints: written whole or not at all, read without running anything that is in them."""

from __future__ import annotations

import copy
import errno
import io
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from threading import Thread
from typing import Any

import torch
from torch import Tensor

from ...errors import StbpError
from ...files import UNREADABLE, atomic_write

FORMAT = "snntorch-stbp checkpoint 1"

MISFITS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What comes of taking up a state that is of something else, or damaged."""


def save(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors and plain values) to `path`, all of it or nothing.

    Raises:
        StbpError: If the file cannot be written; an earlier file at `path` is kept.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    with atomic_write(path) as file:
        file.write(buffer.getbuffer())


def load(path: Path, model: str | None = None) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Args:
        path: The file.
        model: Name of the model that the checkpoint must be of, if that matters.

    Raises:
        StbpError: If the file is missing, damaged, not a checkpoint of this project, of another
            model, or holds anything but tensors and plain values.
    """
    try:
        if not path.is_file():
            raise StbpError(f"there is no checkpoint '{path}'.")
        with open(path, "rb") as file:
            file.read(1)
    except OSError as error:
        raise _unreadable(path, error) from error
    _check_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")  # refused below, or fine
            state = _solid(torch.load(path, map_location="cpu", weights_only=True))
    except pickle.UnpicklingError as error:
        with open(path, "rb") as file:
            pickled = file.read(1) == pickle.PROTO  # by itself, not in an archive
        if pickled or "GLOBAL" in str(error) or "Can only" in str(error):
            raise StbpError(
                f"'{path}' holds more than tensors and plain values and could run code: refused."
            ) from error
        raise StbpError(f"'{path}' is damaged, or not a checkpoint at all.") from error
    except MemoryError:
        raise
    except OSError as error:
        if error.errno is None or error.errno == errno.EINVAL:  # a place that is not in the file
            raise StbpError(f"'{path}' is damaged, or not a checkpoint at all.") from error
        raise _unreadable(path, error) from error
    except Exception as error:  # one changed byte is enough for nearly all kinds there are
        raise StbpError(f"'{path}' is damaged, or not a checkpoint at all.") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise StbpError(f"'{path}' is not a checkpoint of snntorch-stbp.")
    if model is not None:
        if state.get("name") != model:
            raise StbpError(f"'{path}' is a checkpoint of {state.get('name')}, not of {model}.")
        parts = {"model": dict, "classes": list}
        if not all(isinstance(state.get(key), kind) for key, kind in parts.items()):
            raise StbpError(f"'{path}' is damaged: it holds no network, or no classes.")
    return state


def _unreadable(path: Path, error: OSError) -> StbpError:
    return StbpError(f"cannot read '{path}': {error.strerror or error}.")


def _check_archive(path: Path) -> None:
    """Refuse an archive that unpacks to more than it is, which `save` does not write."""
    try:
        with zipfile.ZipFile(path) as archive:
            kinds = {entry.compress_type for entry in archive.infolist()}
    except UNREADABLE:  # no archive: torch says what else it is
        return
    if kinds - {zipfile.ZIP_STORED}:
        raise StbpError(f"'{path}' was packed by another program: checkpoints are not compressed.")


def _solid(value: Any) -> Any:
    """A state whose tensors have a place in memory for each of their values.

    A file may say that a tensor shows one value many times, or that its rows overlap. What writes
    to parameters and to the state of an optimizer in one pass does not expect that.

    Raises:
        ValueError: If a tensor has more values than the file holds.
    """
    if isinstance(value, Tensor) and value.layout == torch.strided:
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError("a tensor has more values than the file")
        copied = torch.empty_like(value)
        return value if copied.stride() == value.stride() else copied.copy_(value)
    if isinstance(value, dict):
        for key, entry in value.items():
            value[key] = _solid(entry)
        return value
    return [_solid(entry) for entry in value] if type(value) is list else value


class Writer:
    """Writes checkpoints, if it may while training goes on.

    Args:
        background: Whether `save` returns before the files are written: what they hold is copied
            to the CPU first. One set of files at a time; the next waits.
    """

    def __init__(self, background: bool) -> None:
        self.background = background
        self._thread: Thread | None = None
        self._error: Exception | None = None

    def save(self, files: Mapping[Path, dict[str, Any]]) -> None:
        """Write `files` in order, as `save` does.

        Raises:
            StbpError: If one of them, or one of the set before, cannot be written.
        """
        self.wait()
        if not self.background:
            for path, state in files.items():
                save(path, state)
            return
        copies: dict[int, Tensor] = {}
        ours = {path: _on_cpu(state, copies) for path, state in files.items()}
        self._thread = Thread(target=self._write, args=(ours,), name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Return when all files are written.

        Raises:
            StbpError: If one of them cannot be.
        """
        self.join()
        if self._error:
            error, self._error = self._error, None
            raise error

    def join(self) -> None:
        """As `wait`, but keep an error for the next one who asks."""
        if self._thread:
            self._thread.join()
            self._thread = None

    def _write(self, files: Mapping[Path, dict[str, Any]]) -> None:
        try:
            for path, state in files.items():
                save(path, state)
        except Exception as error:  # for the thread that waits
            self._error = error


def _on_cpu(value: Any, copies: dict[int, Tensor]) -> Any:
    """A copy of a state whose tensors nobody changes; each is copied once."""
    if isinstance(value, Tensor):
        if id(value) not in copies:
            copies[id(value)] = value.detach().to("cpu", copy=True)
        return copies[id(value)]
    if isinstance(value, dict):
        new = copy.copy(value)  # what a state dictionary says of its version stays
        for key, entry in value.items():
            new[key] = _on_cpu(entry, copies)
        return new
    if isinstance(value, list):
        return [_on_cpu(entry, copies) for entry in value]
    return value
