"""The machine's C compiler."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path


def find_compiler(*names: str) -> str | None:
    """Path of the first of `names` that can compile, or `None`.

    On macOS, programs in `/usr/bin` stand for developer tools that may not be there: run without
    them, they open a window that asks to install them.
    """
    for name in names:
        path = shutil.which(name)
        if path is not None and not _stands_in(path):
            return path
    return None


def _stands_in(path: str) -> bool:
    """Whether a program only stands for one that is not installed."""
    if sys.platform != "darwin" or Path(path).parent != Path("/usr/bin"):
        return False
    asked = subprocess.run(["/usr/bin/xcode-select", "--print-path"], capture_output=True)
    return asked.returncode != 0
