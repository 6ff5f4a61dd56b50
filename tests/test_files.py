"""Files take their place at once; commands can be pasted into the shell of the system."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest

from snntorch_stbp import files
from snntorch_stbp.errors import StbpError

WORDS = ["snntorch-stbp", "show", "runs/a b", r"runs\c"]


def busy(times: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A system in which another program has the file open for some `times`; what was tried."""
    plain, tried = os.replace, list[str]()

    def replace(source: Path, target: Path) -> None:
        tried.append(str(target))
        if len(tried) <= times:
            error = PermissionError(13, "Permission denied")
            error.winerror = 32  # type: ignore[attr-defined]
            raise error
        plain(source, target)

    monkeypatch.setattr(os, "replace", replace)
    return tried


def test_a_file_that_another_program_has_open_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "PATIENCE", 0.1)
    file = tmp_path / "a.txt"
    file.write_text("before")
    tried = busy(3, monkeypatch)
    with files.atomic_write(file) as stream:
        stream.write(b"after")
    assert (file.read_text(), len(tried)) == ("after", 4)

    busy(10**6, monkeypatch)
    with (
        pytest.raises(StbpError, match=r"cannot write '.*': Permission denied \(the file from"),
        files.atomic_write(file) as stream,
    ):
        stream.write(b"never")
    assert file.read_text() == "after"
    assert list(tmp_path.iterdir()) == [file]


def test_commands_are_words_for_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shlex.split(files.shell_words(WORDS)) == WORDS
    monkeypatch.setattr(os, "name", "nt")
    assert files.shell_words(WORDS) == r'snntorch-stbp show "runs/a b" runs\c'
