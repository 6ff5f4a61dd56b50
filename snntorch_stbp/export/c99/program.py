"""The fixed-point network as C99: a header, and a program that proves it on samples.

    network.h      weights, thresholds, functions; how to use it is said at its head
    selftest.c     runs `samples.bin` and compares every spike and the record
    samples.bin    images and what the network computes of them

The program is compiled and run before the folder gets its name, if there is a compiler.
"""

from __future__ import annotations

import re
import struct
import subprocess
import tempfile
from math import prod
from pathlib import Path

import numpy as np
import torch

from ... import __version__
from ...compiler import find_compiler
from ...errors import StbpError
from ...files import atomic_write
from ...frozen import inputs
from ...lowering import FixedPointNet
from .. import golden
from ..bundle import Bundle, agree, check_free, check_samples, new_folder
from ..golden import Golden
from ..shapes import sizes
from ..verify import Agreement
from .source import header
from .text import template

FLAGS = ("-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", "-O3")
"""How the program is compiled."""

MOST_SAMPLES, MOST_SPIKES = 50, 2**23
"""What is computed at a time."""

FILES = ("network.h", "selftest.c", "samples.bin")
WROTE = "|".join(map(re.escape, FILES))
"""Names of the files of such a folder."""


def to_c99(
    net: FixedPointNet,
    samples: torch.Tensor,
    path: str | Path,
    *,
    metadata: dict[str, str] | None = None,
    force: bool = False,
) -> Bundle:
    """Write a fixed-point network as C99, compile it and compare every spike.

    Args:
        net: The network.
        samples: Real inputs to verify with, images `[N, C, H, W]` or frames `[T, N, C, H, W]`,
            features `[N, F]` or `[T, N, F]`.
        path: The folder; those above it are made.
        metadata: Further words for the comment at the head of `network.h`.
        force: Replace an earlier export.

    Returns:
        What was written and compared; `compiled` tells whether there was a compiler (gcc or cc).
        Without one only the integers of `samples.bin` were compared with the torch module.

    Raises:
        UsageError: If `path` exists (with `force`, if it holds anything else), or for samples that
            the network does not take.
        StbpError: If an integer needs more than 32 bits, the folder cannot be written, or the
            program does not compile or computes something else; then nothing is left behind.
    """
    path = Path(path)
    check_free(path, force, WROTE)
    check_samples(net, samples)
    net, samples = inputs.on_cpu(net, samples)
    words = {"project": f"snntorch-stbp {__version__}", **(metadata or {})}
    text = header(net.integers, inputs.size(samples), inputs.in_time(samples), words)
    agreement, vectors = _vectors(net, samples)
    content = (text.encode(), template("selftest.c").encode(), vectors)
    compiler = find_compiler("gcc", "cc")
    with new_folder(path) as folder:
        for name, data in zip(FILES, content, strict=True):
            with atomic_write(folder / name, path / name) as file:
                file.write(data)
        if compiler is not None:
            selftest(folder, compiler)
    return Bundle(path, tuple(path / n for n in FILES), agreement, compiler is not None)


def selftest(folder: Path, compiler: str) -> str:
    """Compile the program of `folder` elsewhere and run it there; returns what it prints.

    Raises:
        StbpError: If it does not compile, or finds a difference; the message has its words.
    """
    with tempfile.TemporaryDirectory() as place:
        program = str(Path(place) / "selftest")
        command = [compiler, *FLAGS, "-o", program, str(folder / "selftest.c")]
        built = subprocess.run(command, capture_output=True, text=True, check=False)
        if built.returncode:
            first = next((x for x in built.stderr.splitlines() if "error" in x), built.stderr)
            raise StbpError(f"'{compiler}' does not compile the exported program: {first.strip()}.")
        command = [program, str(folder / "samples.bin")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        words = done.stdout.strip() or f"it ended with code {done.returncode}"
        raise StbpError(f"the exported program differs from the network: {words}.")
    return done.stdout.strip()


def _vectors(net: FixedPointNet, samples: torch.Tensor) -> tuple[Agreement, bytes]:
    """What was compared with the torch module, and golden vectors for the program.

    `SNNTEST1`; then as 32-bit integers, low byte first: samples, input values of one, neurons; then
    of every sample its input as bytes, of every step and layer the spikes, 8 a byte, lowest bit
    first, filled up to whole bytes, and the record, 32 bits each.
    """
    shapes = sizes(net.integers, inputs.size(samples)).values
    names = [stage.name for stage in net.integers.stages if stage.neuron is not None]
    neurons = sum(prod(shapes[name]) for name in names)
    axis = inputs.batch_axis(samples)
    values = prod(samples.shape) // samples.shape[axis]
    parts = [b"SNNTEST1" + struct.pack("<III", samples.shape[axis], values, neurons)]
    agreement = Agreement(0, 0, 0)
    size = max(1, min(MOST_SAMPLES, MOST_SPIKES // (neurons * net.num_steps)))
    for part in samples.split(size, axis):
        stored = golden.compute(net, part)
        agreement += agree(net, part, stored)
        parts.append(_bytes(stored, names))
    return agreement, b"".join(parts)


def _bytes(stored: Golden, names: list[str]) -> bytes:
    """Golden vectors, sample by sample."""
    count = len(stored["record"])
    images = stored["input"]
    images = (np.moveaxis(images, -3, -1) if images.ndim >= 4 else images).reshape(count, -1)
    layers = [_packed(stored[f"spikes/{name}"]) for name in names]
    spikes = np.concatenate(layers, axis=2).reshape(count, -1)
    record = stored["record"].astype("<i4").view(np.uint8).reshape(count, -1)
    return np.concatenate([images, spikes, record], axis=1).tobytes()


def _packed(spikes: np.ndarray) -> np.ndarray:
    """Spikes `[N, T, ...]` as bytes `[N, T, bytes]`."""
    last = np.moveaxis(spikes, 2, -1) if spikes.ndim == 5 else spikes
    return np.packbits(last.reshape(*spikes.shape[:2], -1), axis=-1, bitorder="little")
