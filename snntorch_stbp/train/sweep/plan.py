"""Many runs of one model, over bits, time steps and seeds.

A sweep lives in one folder. Its runs are ordinary run folders: those that finished are kept, those
that were interrupted go on, those that are missing are begun; so the same command resumes it.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from ...errors import StbpError
from ...files import atomic_write
from ..config import RunConfig
from ..run.reporter import Reporter
from ..run.rundir import RunDir, list_runs
from . import tradeoff
from .summary import Point, Row, markdown

SAMPLES = 100
"""Test samples on which operations are counted."""

IGNORED = (
    "device", "devices", "num_nodes", "workers", "data_dir", "download", "version", "save_memory",
    "checkpoint_activations",
)  # fmt: skip
"""Fields in which a run may differ from what a sweep asks for."""


def plan(
    model: str,
    dataset: str,
    bits: Sequence[Any],
    steps: Sequence[int | None],
    seeds: int,
    **given: Any,
) -> list[RunConfig]:
    """The configurations of a sweep.

    Args:
        model: What is trained.
        dataset: On what.
        bits: Bits of weights.
        steps: Time steps; `None` is the recipe's number.
        seeds: Runs of each, with seeds 0, 1, ...
        given: Other fields of all configurations, in place of the recipe's.

    Raises:
        UsageError: For an unknown model, data set or value.
    """
    absent: dict[str, Any] = {name: None for name, value in given.items() if value is None}
    return [
        replace(
            RunConfig.from_recipe(model, dataset, bits=width, steps=count, seed=seed, **given),
            **absent,
        )
        for width in bits
        for count in steps
        for seed in range(seeds)
    ]


def run_all(
    configs: Sequence[RunConfig],
    out: Path,
    reporter: Reporter,
    notice: Callable[[str], None],
    jobs: int = 1,
) -> list[Point]:
    """Do what is left of a sweep, and measure all of it.

    Args:
        configs: What `plan` says.
        out: The sweep's folder; made if it is missing.
        reporter: Receives the events of the runs, where they are done one after the other.
        notice: Receives a sentence before each run, of several at once also behind it.
        jobs: Runs at once, each in a process of its own.

    Raises:
        StbpError: If data or folders cannot be used.
        Interrupted: If SIGINT or SIGTERM asked to stop; what was done is kept.
    """
    from ..build import build_data, build_model
    from ..loop import fit
    from .jobs import Job, run_jobs

    todo = []
    for number, config in enumerate(configs, 1):
        run = _existing(config, out)
        label = f"{number} of {len(configs)}: {config.name}, seed {config.seed}"
        if run is not None and run.status in ("finished", "diverged"):
            notice(f"{label} (done before)")
            continue
        todo.append(Job(label if run is None else f"{label} (going on)", config, run))
    if jobs > 1 and todo:
        first = todo[0].config  # what it lacks is said, and fetched, once and before all others
        build_model(first, build_data(first))
        run_jobs(todo, out, jobs, notice)
    else:
        for job in todo:
            notice(job.label)
            try:
                fit(job.config, out=out, reporter=reporter, resume=job.resume)
            except StbpError:
                run = _existing(job.config, out)
                if run is None or run.status != "diverged":
                    raise
    done = [_existing(config, out) for config in configs]
    return [_point(run, out) for run in done if run is not None]


def _existing(config: RunConfig, out: Path) -> RunDir | None:
    """The run of a configuration, the one that got furthest."""
    order = ("finished", "diverged", "interrupted", "new")
    same = [run for run in list_runs(out) if _key(run.config) == _key(config)]
    return min(same, key=lambda run: order.index(run.status), default=None)


def _key(config: RunConfig) -> tuple[Any, ...]:
    return tuple(getattr(config, f.name) for f in fields(config) if f.name not in IGNORED)


def _point(run: RunDir, out: Path) -> Point:
    from ...report import operations
    from ...rounded import size_in_bytes
    from ..data import examples
    from ..evaluate import load_trained

    config, result = run.config, run.result or {}
    place = run.path.relative_to(out).as_posix()
    if run.status != "finished":
        return Point(config.bits, config.steps, config.seed, None, 0, 0, 0, 0, place)
    trained = load_trained(run)
    counted = operations(trained.model, examples(trained.bundle.test, SAMPLES))
    accuracy = result["test_accuracy"]
    return Point(
        config.bits, config.steps, config.seed,
        result["best_val_accuracy"] if accuracy is None else accuracy,
        size_in_bytes(trained.model) / 1024, counted.additions, counted.multiplications,
        result["seconds"], place,
    )  # fmt: skip


def save(points: Sequence[Point], rows: Sequence[Row], out: Path, command: str) -> list[Path]:
    """Write `sweep.csv` (a line per run), `summary.csv` (per row), `sweep.md` and `sweep.png`."""
    files = {
        "sweep.md": markdown(rows, command),
        "sweep.csv": _csv(Point, points),
        "summary.csv": _csv(Row, rows),
    }
    for name, content in files.items():
        with atomic_write(out / name) as file:
            file.write(content.encode())
    picture = out / "sweep.png"
    tradeoff.plot([row for row in rows if row.mean is not None], picture)
    return [*(out / name for name in files), picture]


def _csv(kind: type, lines: Sequence[Any]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [f.name for f in fields(kind)]
    writer.writerow(names)
    writer.writerows([getattr(line, name) for name in names] for line in lines)
    return text.getvalue()
