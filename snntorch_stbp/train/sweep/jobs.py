"""Several runs at once, each in a process of its own that can be stopped and goes on later."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ...errors import Interrupted, StbpError
from ..config import RunConfig
from ..run.rundir import RunDir
from ..sources import inherit
from ..stop import SENT, asked_to_stop

POLL = 0.2
"""Seconds between looks at the processes."""


@dataclass(frozen=True)
class Job:
    """One run to do.

    Attributes:
        label: What it is called in notices.
        config: What to do.
        resume: The run to go on with, if it was begun before.
    """

    label: str
    config: RunConfig
    resume: RunDir | None


@dataclass(frozen=True)
class _Active:
    job: Job
    run: RunDir
    process: subprocess.Popen[bytes]
    errors: IO[bytes]


def run_jobs(jobs: Sequence[Job], out: Path, at_once: int, notice: Callable[[str], None]) -> None:
    """Do all `jobs`, `at_once` at a time; a loss that diverges ends its run only.

    The processes share the cores: each gets its part as `OMP_NUM_THREADS`, unless that is set. A
    signal reaches this process only, which passes it on, so that every run saves its state once.

    Args:
        jobs: What to do.
        out: Folder in which the folders of new runs are made.
        at_once: Most processes at a time, at least 1.
        notice: Receives a sentence when a run begins and when it ends.

    Raises:
        StbpError: If a run fails for another reason; the others are stopped and saved.
        Interrupted: If SIGINT or SIGTERM asked to stop; all runs are saved.
    """
    waiting, active = deque(jobs), list[_Active]()
    with asked_to_stop() as stop:
        try:
            while (waiting or active) and not stop:
                while waiting and len(active) < at_once:
                    active.append(_start(waiting.popleft(), out, at_once))
                    notice(f"{active[-1].job.label} (begun)")
                time.sleep(POLL)
                for one in [a for a in active if a.process.poll() is not None]:
                    active.remove(one)
                    notice(f"{one.job.label}: {_outcome(one)}")
        finally:
            for one in active:
                one.process.send_signal(SENT)
            for one in active:
                one.process.wait()
                one.errors.close()
    if stop:
        raise Interrupted("stopped; all runs are saved.")


def _start(job: Job, out: Path, at_once: int) -> _Active:
    config = job.config
    run = job.resume or RunDir.create(out, inherit(config))
    command = [sys.executable, "-m", "snntorch_stbp.cli", "train", "--resume", str(run.path)]
    for name in ("epochs", "device", "devices", "num_nodes", "workers", "data_dir"):
        command += [f"--{name.replace('_', '-')}", str(getattr(config, name))]
    for name in ("download", "save_memory", "checkpoint_activations"):
        command += [f"--{name.replace('_', '-')}"] * getattr(config, name)
    threads = str(max(1, (os.cpu_count() or 1) // at_once))
    errors = tempfile.TemporaryFile()  # noqa: SIM115, closed when the process ends
    process = subprocess.Popen(
        [*command, "--quiet"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=errors,
        env={"OMP_NUM_THREADS": threads, **os.environ},
        start_new_session=True,  # a terminal's Ctrl-C is passed on from here, once
        creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),  # and on Windows
    )
    return _Active(job, run, process, errors)


def _outcome(one: _Active) -> str:
    """How a run ended, in words.

    Raises:
        StbpError: If it failed.
    """
    with one.errors as file:
        file.seek(0)
        said = file.read().decode(errors="replace").strip().splitlines()
    if one.run.status == "diverged":
        return "diverged"
    if one.process.returncode != 0:
        reason = said[-1].removeprefix("Error: ") if said else _reason(one.process.returncode)
        raise StbpError(f"the run '{one.run.path}' failed: {reason}")
    result = one.run.result or {}
    accuracy = result.get("test_accuracy")
    best = result["best_val_accuracy"] if accuracy is None else accuracy
    return f"{100 * best:.2f} %"


def _reason(code: int) -> str:
    """Why a process ended that said nothing."""
    if code == -9:  # SIGKILL, which not every system has
        return "it was killed, as happens where memory runs out: fewer --jobs need less."
    if code < 0:
        return f"signal {-code} ended it."
    return f"its process ended with code {code}."
