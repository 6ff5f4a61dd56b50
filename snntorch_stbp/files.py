"""Files that are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from .errors import StbpError, UsageError


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that takes the place of `path` once it is complete and on disk.

    Raises:
        StbpError: If the file cannot be written; what `path` held before stays.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        kept = " (the file from before is kept)" if path.exists() else ""
        raise StbpError(f"cannot write '{path}': {error}{kept}.") from error


def check_new(files: Sequence[Path], force: bool) -> None:
    """Refuse to replace `files`.

    Raises:
        UsageError: If one of them exists, unless `force`.
    """
    there = [file for file in files if file.exists()]
    if there and not force:
        raise UsageError(f"'{there[0]}' exists already; replace it with --force.")


def claim(files: Sequence[Path], force: bool) -> None:
    """Make sure that `files` may be written: the folder of the first is made.

    Raises:
        UsageError: If one of them exists, unless `force`.
        StbpError: If the folder cannot be made.
    """
    check_new(files, force)
    folder = files[0].parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StbpError(f"cannot make the folder '{folder}': {error.strerror}.") from error
