"""Files that are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import os
import secrets
import shlex
import struct
import subprocess
import time
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from .errors import StbpError, UsageError

UNREADABLE = (
    OSError, ValueError, TypeError, LookupError, ArithmeticError, EOFError, RuntimeError,
    MemoryError, SyntaxError, struct.error, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What readers of archives and images raise at files that are damaged, or of a kind they lack."""

PATIENCE = 2.0
"""Seconds that a file which another program has open is waited for."""

OF_RUNS = (
    "config.json", "metrics.csv", "curves.png", "last.pt", "best.pt", "result.json", "log.txt",
)  # fmt: skip
"""Files in the folder of a run that nothing but training writes."""


def expanded(path: str | Path) -> Path:
    """The path with the home folder in place of `~`, where it is a user's."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # no such user
        return Path(path)


def shell_words(words: Sequence[str]) -> str:
    """Words of a command as they are typed in a shell of this system."""
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def remove_unfinished(folder: Path) -> None:
    """Remove what writers that were killed left in a folder that nobody else writes to."""
    for file in folder.glob(".*.tmp"):
        file.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    """A file in the folder of `path` that is one writer's alone."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


@contextmanager
def atomic_write(path: Path, asked: Path | None = None) -> Iterator[BinaryIO]:
    """Open a temporary file that takes the place of `path` once it is complete and on disk.

    Args:
        path: The file.
        asked: The file that the user knows of, where `path` is another's first name.

    Raises:
        StbpError: If the file cannot be written; what `path` held before stays.
    """
    temporary = _beside(path)
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError | RuntimeError):
            raise
        named, reason = asked or path, getattr(error, "strerror", None) or error
        kept = " (the file from before is kept)" if named.exists() else ""
        raise StbpError(f"cannot write '{named}': {reason}{kept}.") from error


def _replace(temporary: Path, path: Path) -> None:
    """Put a file in the place of `path`; Windows refuses while another program has that open."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return os.replace(temporary, path)
        except PermissionError as error:
            if getattr(error, "winerror", None) is None or time.monotonic() > until:
                raise
        time.sleep(PATIENCE / 40)


@contextmanager
def write_together(files: Sequence[Path], force: bool) -> Iterator[list[Path]]:
    """Names to write `files` under, all of which take their places once all are written.

    The first file does so last. What goes wrong leaves everything as it was before; only a process
    that is killed between two renames leaves new files beside old ones.

    Raises:
        UsageError: If one of the files came to be in the meantime, unless `force`.
        StbpError: If one of them cannot take its place.
    """
    names, before = [_beside(file) for file in files], [_beside(file) for file in files]
    begun: list[tuple[Path, Path, Path]] = []
    try:
        yield names
        check_new(files, force)
        for name, old, file in reversed(list(zip(names, before, files, strict=True))):
            with suppress(OSError):  # there is none before, or no links on this disk
                os.link(file, old)
            begun.append((name, old, file))
            try:
                _replace(name, file)
            except OSError as error:
                raise StbpError(f"cannot write '{file}': {error.strerror}.") from error
    except BaseException:
        for name, old, file in begun:
            if not name.exists():  # it took its place
                with suppress(OSError):
                    os.replace(old, file) if old.exists() else file.unlink()
        raise
    finally:
        for each in (*names, *before):
            with suppress(OSError):
                each.unlink(missing_ok=True)


def check_file(path: Path) -> None:
    """Refuse a path at which there can be no file.

    Raises:
        UsageError: If it is a folder.
    """
    if path.is_dir():
        raise UsageError(f"'{path}' is a folder; give the name of a file.")


def check_new(files: Sequence[Path], force: bool) -> None:
    """Refuse to replace `files`.

    Raises:
        UsageError: If one of them exists, unless `force`; if it is a folder or a file of a run, in
            any case.
    """
    for file in files:
        check_file(file)
    there = [file for file in files if file.exists()]
    for file in there:
        if file.name in OF_RUNS and file.with_name("config.json").exists():
            raise UsageError(f"'{file}' belongs to a run; give another name.")
    if there and not force:
        raise UsageError(f"'{there[0]}' exists already; replace it with --force.")


def claim(files: Sequence[Path], force: bool) -> None:
    """Make sure that `files` can be written: the folder of the first is made, and tried.

    Raises:
        UsageError: If one of them exists, unless `force`.
        StbpError: If the folder cannot be made, or takes no such file.
    """
    check_new(files, force)
    folder = files[0].parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StbpError(f"cannot make the folder '{folder}': {error.strerror}.") from error
    trial = _beside(files[0])
    try:
        trial.open("xb").close()
        trial.unlink()
    except OSError as error:
        raise StbpError(f"cannot write '{files[0]}': {error.strerror}.") from error
