"""`snntorch-stbp finetune`: refine a trained run in the arithmetic that hardware computes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from snntorch_stbp.errors import StbpError, UsageError
from snntorch_stbp.train.config import RunConfig
from snntorch_stbp.train.run.rundir import RunDir

from .group import command, json_option
from .output import make_reporter
from .params import Real, Whole

SLOWER = 20
"""A trained network is refined at this part of its learning rate."""

EXAMPLE = """\
snntorch-stbp finetune runs/resnet18-digits-w4-T2-1 --fixed-point
snntorch-stbp finetune runs/resnet18-digits-w4-T2-1 --frozen --epochs 3"""


@command(
    EXAMPLE,
    click.Argument(["run"]),
    click.Option(["--fixed-point"], is_flag=True,
                 help="As the network of integers that `export --fixed-point` writes."),
    click.Option(["--frozen"], is_flag=True,
                 help="In the deployment arithmetic that `export` writes."),
    click.Option(["--epochs"], type=Whole(1), default=1, show_default=True,
                 help="Passes over the data."),
    click.Option(["--lr"], type=Real(0, above=True),
                 help=f"Highest learning rate; default: 1/{SLOWER} of the run's."),
    click.Option(["--out"], metavar="DIR", default="runs", show_default=True,
                 help="Where the new run's folder is made."),
    click.Option(["--data-dir"], metavar="DIR", help="Where data sets are found."),
    click.Option(["--quiet"], is_flag=True, help="Print the new run's folder only, at the end."),
    json_option(),
)  # fmt: skip
def finetune(run: str, fixed_point: bool, frozen: bool, **options: Any) -> None:
    """Refine RUN in the arithmetic of its export, so that exporting it loses nothing.

    The network, its data, its bits and its seed are those of RUN; the result is a new run.
    """
    if fixed_point == frozen:
        raise UsageError("name the arithmetic to refine in: --fixed-point or --frozen.")
    if options["quiet"] and options["as_json"]:
        raise UsageError("--quiet and --json exclude each other; give one of them.")
    folder = RunDir.open(run)
    if not (folder.path / "best.pt").is_file():
        raise StbpError(f"'{folder.path}' never finished an epoch: there is nothing to refine yet.")
    config = _config(folder, fixed_point, options)
    reporter = make_reporter(options["quiet"], options["as_json"])
    gone = [path for path in config.teacher if not (Path(path) / "best.pt").is_file()]
    if gone:
        config = replace(config, teacher=())
        reporter.message(
            f"'{folder.path}' learned from '{gone[0]}', which is not there: this run learns from "
            f"the labels alone"
        )

    from .quiet import hush

    hush()
    from snntorch_stbp.train.loop import fit

    try:
        fit(config, out=Path(options["out"]), reporter=reporter)
    finally:
        reporter.close()


def _config(folder: RunDir, fixed_point: bool, options: dict[str, Any]) -> RunConfig:
    """The run's configuration with what a refinement changes.

    The trained network's own neurons and blocks are not what runs: nothing watches its spikes, and
    what would be computed again block by block is kept in less memory.
    """
    config = folder.config
    return replace(
        config,
        init_from=str(folder.path),
        fixed_point_aware=fixed_point,
        frozen_aware=not fixed_point,
        epochs=options["epochs"],
        lr=options["lr"] or config.lr / SLOWER,
        warmup_epochs=0,
        spike_rate_target=None,
        save_memory=config.save_memory or config.checkpoint_activations,
        checkpoint_activations=False,
        data_dir=options["data_dir"] or config.data_dir,
    )
