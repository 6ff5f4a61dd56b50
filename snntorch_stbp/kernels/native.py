"""Sources in C beside this module, compiled by the machine's compiler when they are first needed.

It takes about half a second for each, and is kept in the user's cache
(`$XDG_CACHE_HOME/snntorch-stbp`) under a name with the hash of its content: a process that loads
half a library dies. Where there is no compiler, or it fails, there is no library, and
who asks computes by torch operations.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor

from ..compiler import find_compiler

_log = logging.getLogger(__name__)

# No contraction, and nothing else that would round otherwise than one operation after the other.
FLAGS = (
    "-O3", "-march=native", "-ffp-contract=off", "-fno-trapping-math", "-fno-math-errno",
    "-fPIC", "-shared",
)  # fmt: skip
SECONDS = 60  # for a compiler that hangs

STORED = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2}
"""Types of tensors that the sources know, and their names there."""


class Shape(ctypes.Structure):
    """`shape` of tables.h."""

    _fields_ = [(name, ctypes.c_int64) for name in ("steps", "n", "channels", "inner", "threads")]


@cache
def library(name: str, *defines: tuple[str, int]) -> ctypes.CDLL | None:
    """`NAME.c`, compiled with `defines`, or `None` where it cannot be had."""
    compiler = _compiler()
    if compiler is None:
        return None
    options = [f"-D{key}={value}" for key, value in defines]
    try:
        try:
            return ctypes.CDLL(str(_build(compiler, name, options)))
        except OSError as error:  # compiled where other libraries were at hand
            _log.debug("%s.c is compiled again: %s", name, error)
            return ctypes.CDLL(str(_build(compiler, name, options, again=True)))
    except (OSError, subprocess.SubprocessError) as error:
        _log.debug("%s.c is not compiled: %s", name, error)
        return None


def pointer(x: Tensor | None) -> ctypes.c_void_p:
    """Where the numbers of `x` lie, for a call during which `x` lives."""
    return ctypes.c_void_p(None if x is None else x.data_ptr())


@cache
def _compiler() -> str | None:
    """Path of the C compiler."""
    path = find_compiler(os.environ.get("CC") or "cc")
    if path is None:
        _log.debug("no C compiler: nothing is compiled")
    return path


def _build(compiler: str, name: str, defines: Sequence[str], again: bool = False) -> Path:
    """The compiled library; from the cache, if it was compiled before for this processor.

    Args:
        compiler: Path of the compiler.
        name: The source.
        defines: Options of the compiler.
        again: Compile it in any case.
    """
    sources = {
        file.name: file.read_bytes()
        for file in sorted(resources.files(__package__).iterdir(), key=lambda file: file.name)
        if file.name == f"{name}.c" or file.name.endswith(".h")
    }
    made_of = "\0".join((compiler, *FLAGS, *defines, _processor())).encode()
    folder = _cache_folder()
    digest = hashlib.sha256(b"".join(sources.values()) + made_of).hexdigest()
    stem = f"{name}-{digest[:24]}"
    kept = list(folder.glob(f"{stem}-*.so"))
    for library in kept:
        if not again and library == _named(folder, stem, library):
            return library
    with tempfile.TemporaryDirectory(dir=folder) as place:
        code, built = Path(place, f"{name}.c"), Path(place, f"{name}.so")
        for file, content in sources.items():
            Path(place, file).write_bytes(content)
        command = [compiler, *FLAGS, *defines, str(code), "-o", str(built), "-lm"]
        try:
            _run([*command, "-fopenmp"])
        except subprocess.CalledProcessError:  # a compiler without OpenMP: one thread
            _run(command)
        with built.open("rb") as stream:
            os.fsync(stream.fileno())
        library = _named(folder, stem, built)
        os.replace(built, library)  # whole, whatever other processes do
    for other in kept:
        if other != library:
            other.unlink(missing_ok=True)
    return library


def _named(folder: Path, stem: str, library: Path) -> Path:
    """Where a library with the content of `library` is kept."""
    try:
        return folder / f"{stem}-{hashlib.sha256(library.read_bytes()).hexdigest()[:16]}.so"
    except FileNotFoundError:  # another process has just removed it
        return folder / stem


def _run(command: Sequence[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=SECONDS)


def _processor() -> str:
    """What `-march=native` depends on: home folders are shared between machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()} {platform.node()}"
    wanted = ("model name", "flags", "Features", "CPU part")
    return " ".join(sorted({line for line in lines if line.startswith(wanted)}))


@cache
def _cache_folder() -> Path:
    """A folder that nobody else can write to, since what is in it is executed."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "snntorch-stbp"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
        own = not hasattr(os, "getuid") or status.st_uid == os.getuid()
        if own and not status.st_mode & 0o022 and os.access(folder, os.W_OK):
            return folder
    except (OSError, RuntimeError) as error:
        _log.debug("no cache of compiled sources: %s", error)
    return Path(tempfile.mkdtemp(prefix="snntorch-stbp-"))  # for this process
