"""Doing what a sweep plans, and measuring its runs.

A sweep lives in one folder. Its runs are ordinary run folders: those that finished are kept, those
that were interrupted go on, those that are missing are begun; so the same command resumes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path

from ...errors import Interrupted, StbpError
from ...report import operations
from ...rounded import size_in_bytes
from ..build import build_data, build_model
from ..config import RunConfig
from ..data import examples
from ..evaluate import load_trained
from ..loop import fit
from ..run.reporter import Reporter
from ..run.rundir import RunDir, list_runs
from .jobs import Job, run_jobs
from .plan import from_float, needs_float
from .summary import Point

SAMPLES = 100
"""Test samples on which operations are counted."""

IGNORED = (
    "device", "devices", "num_nodes", "workers", "data_dir", "download", "version", "save_memory",
    "checkpoint_activations", "split_seed",
)  # fmt: skip
"""Fields in which a run may differ from what a sweep asks for."""

TAKEN = ("test_accuracy", "best_val_accuracy", "seconds")
"""What the table takes from `result.json`."""


def run_all(
    configs: Sequence[RunConfig],
    out: Path,
    reporter: Reporter,
    notice: Callable[[str], None],
    jobs: int = 1,
) -> list[Point]:
    """Do what is left of a sweep, and measure all of it.

    Args:
        configs: What `plan` says. Those that start from another of them are done behind it, and
            not at all where it diverged.
        out: The sweep's folder; made if it is missing.
        reporter: Receives the events of the runs, where they are done one after the other.
        notice: Receives a sentence before each run, of several at once also behind it.
        jobs: Runs at once, each in a process of its own.

    Returns:
        A point for each configuration, in their order.

    Raises:
        StbpError: If data or folders cannot be used.
        Interrupted: If SIGINT or SIGTERM asked to stop; what was done is kept.
    """
    runs: dict[int, RunDir | None] = {}

    def label(number: int) -> str:
        config = configs[number]
        return f"{number + 1} of {len(configs)}: {config.name}, seed {config.seed}"

    def do(part: dict[int, RunConfig]) -> None:
        todo = []
        for number, config in part.items():
            run = _existing(config, out)
            if run is not None and run.status in ("finished", "diverged"):
                notice(f"{label(number)} (done before)")
                continue
            todo.append(Job(label(number) + (" (going on)" if run else ""), config, run))
        _do(todo, out, reporter, notice, jobs)
        runs.update({number: _existing(config, out) for number, config in part.items()})

    do({number: c for number, c in enumerate(configs) if not needs_float(c)})
    starting = {}
    for number, config in enumerate(configs):
        if needs_float(config):
            start = runs[_float_of(config, configs)]
            if start is None or start.status == "diverged":
                notice(f"{label(number)} (left out: the run that it starts from diverged)")
            else:
                starting[number] = from_float(config, start)
    do(starting)
    return [_point(config, runs.get(number), out) for number, config in enumerate(configs)]


def _do(
    todo: Sequence[Job],
    out: Path,
    reporter: Reporter,
    notice: Callable[[str], None],
    at_once: int,
) -> None:
    if at_once > 1 and todo:
        first = todo[0].config  # what it lacks is said, and fetched, once and before all others
        build_model(first, build_data(first))
        run_jobs(todo, out, at_once, notice)
        return
    for job in todo:
        notice(job.label)
        config = job.config
        if job.resume is not None:  # what it holds out was settled when it began
            config = replace(config, split_seed=job.resume.config.split_seed)
        try:
            result = fit(config, out=out, reporter=reporter, resume=job.resume)
        except StbpError:
            run = _existing(job.config, out)
            if run is None or run.status != "diverged":
                raise
        else:
            if result["asked_to_stop"]:
                raise Interrupted("stopped behind a run that is finished.")


def _float_of(config: RunConfig, configs: Sequence[RunConfig]) -> int:
    """Which of `configs` is that of floating point with the steps and the seed of `config`."""
    wanted = (None, config.steps, config.seed)
    return [(c.bits, c.steps, c.seed) for c in configs].index(wanted)


def _existing(config: RunConfig, out: Path) -> RunDir | None:
    """The run of a configuration, the one that got furthest."""
    order = ("finished", "diverged", "interrupted", "new")
    same = [run for run in list_runs(out) if _same(run.config, config, out)]
    return min(same, key=lambda run: order.index(run.status), default=None)


def _same(one: RunConfig, wanted: RunConfig, out: Path) -> bool:
    """Whether a run is the one wanted, however the path to a start in the folder `out` is written.

    A sweep that was moved, or is named from elsewhere, still knows what its runs started from.
    """
    compared = {field.name for field in fields(wanted)}.difference(IGNORED)
    start = Path(wanted.init_from or "")
    if start.parent.resolve() == out.resolve() and Path(one.init_from or "").name == start.name:
        compared.discard("init_from")
    return all(getattr(one, name) == getattr(wanted, name) for name in compared)


def _point(config: RunConfig, run: RunDir | None, out: Path) -> Point:
    place = run.path.relative_to(out).as_posix() if run else ""
    if run is None or run.status != "finished":
        return Point(config.bits, config.steps, config.seed, None, 0, 0, 0, 0, place)
    result = run.result or {}
    if absent := [name for name in TAKEN if name not in result]:
        raise StbpError(
            f"'{run.path / 'result.json'}' lacks {', '.join(absent)}: it is damaged; remove the "
            f"folder, and the same command trains this run again."
        )
    trained = load_trained(run)
    counted = operations(trained.model, examples(trained.bundle.test, SAMPLES))
    accuracy = result["test_accuracy"]
    return Point(
        config.bits, config.steps, config.seed,
        result["best_val_accuracy"] if accuracy is None else accuracy,
        size_in_bytes(trained.model) / 1024, counted.additions, counted.multiplications,
        result["seconds"], place,
    )  # fmt: skip
