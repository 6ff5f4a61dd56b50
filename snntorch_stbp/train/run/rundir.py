"""The folder of a run: its number, what lies in it, and files that are never half written.

- config.json    everything needed to repeat the run
- metrics.csv    one row per epoch
- curves.png     the same as a picture
- last.pt        complete state after the last epoch (or interruption)
- best.pt        the network that `select` chose: of the best epoch, or of the last
- result.json    how the run ended
- log.txt        what was said, with times
- tensorboard/   the same figures as events
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ...errors import StbpError, UsageError
from ...files import atomic_write, remove_unfinished
from ..config import RunConfig


@dataclass(frozen=True)
class RunDir:
    """An existing run folder and its configuration."""

    path: Path
    config: RunConfig

    @classmethod
    def create(cls, out: Path, config: RunConfig) -> RunDir:
        """Make a new folder `out/NAME-NUMBER` that no other run has or gets.

        Raises:
            UsageError: If its name holds what is no text.
            StbpError: If the folder cannot be made.
        """
        check_name(out, "choose another with --out")
        try:
            out.mkdir(parents=True, exist_ok=True)
            number = 1 + max(
                (int(m[1]) for p in out.iterdir() if (m := _numbered(config.name).match(p.name))),
                default=0,
            )
            while True:
                path = out / f"{config.name}-{number}"
                try:
                    path.mkdir()
                    break
                except FileExistsError:
                    number += 1
        except OSError as error:
            raise StbpError(
                f"cannot make a run folder in '{out}': {error.strerror or error}; "
                f"choose another with --out."
            ) from error
        run = cls(path, config)
        run.write_text("config.json", config.to_json())
        return run

    @classmethod
    def open(cls, path: str | Path) -> RunDir:
        """Open a run folder (or one of the files in it).

        Raises:
            StbpError: If there is none, or it is not the folder of a run.
        """
        path = Path(path)
        try:
            if path.is_file():
                path = path.parent
            if not path.is_dir():
                raise StbpError(
                    f"there is no run folder '{path}'; `snntorch-stbp runs` lists them."
                )
            file = path / "config.json"
            if not file.is_file():
                raise StbpError(f"'{path}' is not the folder of a run: it has no config.json.")
        except OSError as error:
            raise StbpError(f"cannot use '{path}': {error.strerror or error}.") from error
        try:
            return cls(path, RunConfig.from_json(file.read_text(encoding="utf-8")))
        except (StbpError, UnicodeDecodeError, OSError) as error:
            raise StbpError(f"cannot read '{file}': {error}") from error

    @property
    def history(self) -> list[dict[str, Any]]:
        """The rows of `metrics.csv` up to the first that is damaged, numbers as numbers."""
        file, rows = self.path / "metrics.csv", list[dict[str, Any]]()
        if not file.is_file():
            return rows
        try:
            with open(file, newline="", encoding="utf-8") as stream:
                for read in csv.DictReader(stream):
                    row = {k: _number(v) for k, v in read.items() if v is not None}
                    whole = isinstance(row.get("epoch"), int)
                    if not (whole and isinstance(row.get("val_accuracy"), int | float)):
                        break
                    rows.append(row)
        except (OSError, ValueError, csv.Error):
            pass
        return rows

    @property
    def epochs_done(self) -> int:
        """The last epoch that `metrics.csv` has."""
        rows = self.history
        return int(rows[-1]["epoch"]) if rows else 0

    def finished(self, epochs: int) -> bool:
        """Whether it has ended, and nothing of so many epochs is left to train."""
        return self.status == "finished" and self.epochs_done >= epochs

    @property
    def result(self) -> dict[str, Any] | None:
        """How the run ended, or `None` while it has not, or its file is damaged."""
        file = self.path / "result.json"
        try:
            read = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
        except (ValueError, OSError, RecursionError):
            return None
        if not isinstance(read, dict):
            return None
        figures = (read.get(name) for name in ("test_accuracy", "best_val_accuracy"))
        return read if all(_share(figure) for figure in figures) else None

    @property
    def status(self) -> str:
        """`"new"`, `"interrupted"`, `"finished"` or `"diverged"`."""
        if self.result is not None:
            return "diverged" if self.result.get("status") == "diverged" else "finished"
        return "interrupted" if self.trained else "new"

    @property
    def trained(self) -> bool:
        """Whether it has come to a checkpoint, even if that is not there any more."""
        checkpoints = (self.path / name for name in ("last.pt", "best.pt"))
        if any(map(os.path.lexists, checkpoints)) or self.history:
            return True
        diverged = (self.result or {}).get("status") == "diverged"  # it may have in epoch 1
        return (self.path / "result.json").exists() and not diverged

    def changed(self, **changes: Any) -> RunConfig:
        """The configuration with those of `changes` that are not `None`."""
        return replace(self.config, **{k: v for k, v in changes.items() if v is not None})

    def reopen(self) -> None:
        """Note that the run goes on: it has this configuration now and has not ended."""
        self.write_text("config.json", self.config.to_json())
        (self.path / "result.json").unlink(missing_ok=True)

    def check_unchanged(self) -> None:
        """Refuse to go on with a run that another process held since it was opened.

        Raises:
            StbpError: If its configuration is another one now.
        """
        if RunDir.open(self.path).config != self.config:
            raise StbpError(
                f"'{self.path}' was changed by another process; give the command again."
            )

    def write_text(self, name: str, text: str) -> None:
        """Write a file of the run, all of it or nothing."""
        with atomic_write(self.path / name) as file:
            file.write(text.encode())

    def write_history(self, rows: list[dict[str, Any]]) -> None:
        """Write `metrics.csv` from all rows."""
        if rows:
            lines = [",".join(rows[0]), *(",".join(str(v) for v in row.values()) for row in rows)]
            self.write_text("metrics.csv", "\n".join(lines) + "\n")

    def log(self, text: str) -> None:
        """Append a line with the time to `log.txt`; a full disk costs the line, not the run."""
        with suppress(OSError), open(self.path / "log.txt", "a", encoding="utf-8") as file:
            file.write(f"{datetime.now().isoformat(timespec='seconds')} {text}\n")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for writing.

        Raises:
            StbpError: If another process trains in this folder.
        """
        try:
            with FileLock(self.path / ".lock", timeout=0):
                remove_unfinished(self.path)
                yield
        except Timeout as error:
            raise StbpError(f"another process is training in '{self.path}'.") from error


def check_name(folder: Path, advice: str) -> None:
    """Refuse a folder that the files of a run cannot name.

    Raises:
        UsageError: If its name holds what is no text.
    """
    if not str(folder).isprintable():
        raise UsageError(
            f"the folder {str(folder)!r} has a name that cannot be written down: {advice}."
        )


def list_runs(out: str | Path) -> list[RunDir]:
    """All readable run folders in `out`, the one that was written to last at the end.

    Raises:
        StbpError: If the folder cannot be read.
    """
    out = Path(out)
    if not out.is_dir():
        return []
    runs = []
    try:
        times = dict[Path, float]()
        for path in out.iterdir():
            with suppress(FileNotFoundError):  # it vanished meanwhile
                times[path] = path.lstat().st_mtime
    except OSError as error:
        raise StbpError(f"cannot read the folder '{out}': {error.strerror or error}.") from error
    for path in sorted(times, key=times.__getitem__):
        try:
            runs.append(RunDir.open(path))
        except StbpError:
            continue
    return runs


def _share(value: Any) -> bool:
    """Whether it is a share, or absent."""
    return value is None or (type(value) in (int, float) and 0 <= value <= 1)


def _numbered(name: str) -> re.Pattern[str]:
    return re.compile(re.escape(name) + r"-(\d+)$")


def _number(text: Any) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except (ValueError, TypeError):
            continue
    return text
