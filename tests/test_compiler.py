"""Which compiler is taken."""

from __future__ import annotations

import shutil
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from snntorch_stbp.compiler import find_compiler


def test_the_first_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"cc": "/opt/bin/cc", "clang": "/opt/bin/clang"}
    monkeypatch.setattr(shutil, "which", there.get)
    assert find_compiler("gcc", "cc", "clang") == "/opt/bin/cc"
    assert find_compiler("gcc") is None


@pytest.mark.parametrize("installed", [True, False])
def test_a_program_that_stands_for_missing_tools_is_none(
    installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a Mac without developer tools; a compiler from elsewhere needs none."""

    def run(command: list[str], **options: Any) -> SimpleNamespace:
        assert command[1:] == ["--print-path"]
        return SimpleNamespace(returncode=0 if installed else 2)

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(subprocess, "run", run)
    there = {"gcc": "/usr/bin/gcc"}
    monkeypatch.setattr(shutil, "which", there.get)
    assert find_compiler("gcc", "cc") == ("/usr/bin/gcc" if installed else None)
    there["cc"] = "/opt/homebrew/bin/cc"
    assert find_compiler("gcc", "cc") == ("/usr/bin/gcc" if installed else "/opt/homebrew/bin/cc")
