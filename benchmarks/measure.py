"""Interleaved timing: every round runs every candidate once, so that a busy machine hits all.

And the peak memory of a process.
"""

from __future__ import annotations

import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from snntorch_stbp.memory import keep_pages

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def machine(device: str = "cpu") -> str:
    """What the figures were measured on."""
    place = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"
    if device == "cuda":
        place = torch.cuda.get_device_name()
    return (
        f"{platform.machine()}, {place}, torch {torch.__version__}, "
        f"Python {platform.python_version()}"
    )


def peak_memory() -> int:
    """Bytes that this process has held at most.

    Linux also hands the peak of the process that started it down through `getrusage`, so that it is
    read from `/proc` there.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line[:6] == "VmHWM:")
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def interleave(
    candidates: Mapping[str, Callable[[], object]], rounds: int, device: str = "cpu"
) -> dict[str, float]:
    """Median seconds of each candidate, after one round that is not counted.

    On a CPU the process keeps the memory that it frees, as `train` does, so that no candidate
    waits for pages that another gave back.

    On a GPU, which works behind the program's back, a candidate runs several times in a row, and
    the clock is read when the last of them is done.
    """
    if device == "cpu":
        keep_pages()
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    repeats = 10 if device == "cuda" else 1
    for count in range(rounds + 1):
        for name, run in candidates.items():
            start = time.perf_counter()
            for _ in range(repeats):
                run()
            if device == "cuda":
                torch.cuda.synchronize()
            if count:
                seconds[name].append((time.perf_counter() - start) / repeats)
    return {name: statistics.median(values) for name, values in seconds.items()}


def table(rows: Mapping[str, Mapping[str, float]], baseline: str, unit: float) -> str:
    """Markdown: a line for each candidate; values times `unit`, and ratios to `baseline`."""
    columns = list(rows)
    lines = [f"| | {' | '.join(columns)} |", f"| --- |{' --- |' * len(columns)}"]
    for name in rows[columns[0]]:
        cells = (f"{r[name] * unit:.1f} ({r[name] / r[baseline]:.2f}x)" for r in rows.values())
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)
