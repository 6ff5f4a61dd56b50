"""The neuron on a CPU as machine code: `neuron.c`, compiled when it is first needed.

The C compiler of the machine makes a library for each kind of neuron, in about half a second, and
keeps it in the user's cache (`$XDG_CACHE_HOME/snntorch-stbp`). Where there is no compiler, or it
fails, `cpu` computes instead, with the same spikes.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import cpu
from .rule import Rule

_log = logging.getLogger(__name__)

STORED = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2}
RESETS = {"none": 0, "zero": 1, "subtract": 2}
CURVES = {"rectangular": 0, "polynomial": 1, "sigmoid": 2, "gaussian": 3}
# No contraction, and nothing else that would round otherwise than one operation after the other.
FLAGS = ("-O3", "-march=native", "-ffp-contract=off", "-fno-trapping-math", "-fPIC", "-shared")
SECONDS = 60  # for a compiler that hangs


class _Shape(ctypes.Structure):
    """`shape` of neuron.c."""

    _fields_ = [
        (name, ctypes.c_int64)
        for name in ("steps", "n", "x_step", "channels", "inner", "betas", "thresholds", "threads")
    ]


def forward(
    x: Tensor, beta: Tensor, threshold: Tensor, rule: Rule, membrane: bool
) -> tuple[Tensor, Tensor | None]:
    """As `cpu.forward`."""
    library = _library(*_key(x, rule, membrane, learned=False))
    if library is None:
        return cpu.forward(x, beta, threshold, rule, membrane)
    spikes = x.new_empty(x.shape)
    potential = x.new_empty(x.shape, dtype=beta.dtype) if membrane else None
    _call(library.forward, x, beta, threshold, [x, beta, threshold, spikes, potential])
    return spikes, potential


def backward(
    x: Tensor,
    beta: Tensor,
    threshold: Tensor,
    rule: Rule,
    spikes: Tensor,
    potential: Tensor | None,
    learned: tuple[bool, bool],
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """As `cpu.backward`."""
    library = _library(*_key(x, rule, potential is not None, any(learned)))
    if library is None:
        return cpu.backward(x, beta, threshold, rule, spikes, potential, learned)
    current = x.new_empty(x.shape)
    sums = [x.new_empty(x.shape[1:], dtype=beta.dtype) if any(learned) else None for _ in learned]
    tensors = [x, beta, threshold, spikes, potential, current, *sums]
    a, curve = rule.surrogate.parameter, rule.surrogate.curve
    root = (2 * torch.pi * a if curve == "gaussian" else a) ** 0.5
    _call(library.backward, x, beta, threshold, tensors, a, root, rule.surrogate.centre)
    d_beta, d_threshold = (
        s.sum_to_size(value.shape) if wanted and s is not None else None
        for s, value, wanted in zip(sums, (beta, threshold), learned, strict=True)
    )
    return current, d_beta, d_threshold


def _key(x: Tensor, rule: Rule, membrane: bool, learned: bool) -> tuple[int, ...]:
    """What decides which library computes; `-1` where none can."""
    curve = CURVES[rule.surrogate.curve]
    reset, stored = RESETS[rule.reset], STORED.get(x.dtype, -1)
    return stored, reset, int(rule.detach_reset), curve, int(membrane), int(learned)


def _call(
    function: Any,
    x: Tensor,
    beta: Tensor,
    threshold: Tensor,
    tensors: Sequence[Any],
    *values: float,
) -> None:
    channels, inner = (x.shape[2], x.shape[3]) if x.dim() == 4 else (1, 1)
    shape = _Shape(
        len(x), x[0].numel(), x.stride(0), channels, inner, beta.numel(), threshold.numel(),
        torch.get_num_threads(),
    )  # fmt: skip
    # What `contiguous` may copy has to live until the call returns.
    held = [t if t is None or t is x else t.contiguous() for t in tensors]
    pointers = [ctypes.c_void_p(None if t is None else t.data_ptr()) for t in held]
    if function(ctypes.byref(shape), *pointers, *(ctypes.c_double(v) for v in values)):
        raise MemoryError("no memory for the state of a block of neurons")


@cache
def _library(
    stored: int, reset: int, detach: int, curve: int, membrane: int, learned: int
) -> ctypes.CDLL | None:
    """The library for one kind of neuron, or `None` where it cannot be had."""
    compiler = _compiler()
    if stored < 0 or compiler is None:
        return None
    names = ("STORED", "RESET", "DETACH", "CURVE", "MEMBRANE", "LEARNED")
    values = (stored, reset, detach, curve, membrane, learned)
    defines = tuple(f"-D{name}={value}" for name, value in zip(names, values, strict=True))
    try:
        return ctypes.CDLL(str(_build(compiler, defines)))
    except (OSError, subprocess.SubprocessError) as error:
        _log.debug("the neuron is not compiled: %s", error)
        return None


@cache
def _compiler() -> str | None:
    """Path of the C compiler."""
    path = shutil.which(os.environ.get("CC") or "cc")
    if path is None:
        _log.debug("no C compiler: neurons are not compiled")
    return path


def _build(compiler: str, defines: Sequence[str]) -> Path:
    """The compiled library; from the cache, if it was compiled before for this processor."""
    source = resources.files(__package__).joinpath("neuron.c").read_bytes()
    made_of = "\0".join((compiler, *FLAGS, *defines, _processor())).encode()
    folder = _cache_folder()
    library = folder / f"neuron-{hashlib.sha256(source + made_of).hexdigest()[:24]}.so"
    if library.is_file():
        return library
    with tempfile.TemporaryDirectory(dir=folder) as place:
        code, built = Path(place, "neuron.c"), Path(place, "neuron.so")
        code.write_bytes(source)
        command = [compiler, *FLAGS, *defines, str(code), "-o", str(built), "-lm"]
        try:
            _run([*command, "-fopenmp"])
        except subprocess.CalledProcessError:  # a compiler without OpenMP: one thread
            _run(command)
        os.replace(built, library)  # whole, whatever other processes do
    return library


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
        _log.debug("no cache of compiled neurons: %s", error)
    return Path(tempfile.mkdtemp(prefix="snntorch-stbp-"))  # for this process
