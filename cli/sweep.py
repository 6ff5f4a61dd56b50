"""`snntorch-stbp sweep`: train one model at many bit widths, and compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from snntorch_stbp.errors import Interrupted, UsageError
from snntorch_stbp.files import shell_words
from snntorch_stbp.train import bits_file, catalog, sources
from snntorch_stbp.train.sweep.plan import plan
from snntorch_stbp.train.sweep.summary import Row, count, fronts, save, seeds, summarize, word

from .group import Option, command, json_option
from .output import ClosableReporter, make_reporter
from .params import BitsType, Listed, Real, Whole
from .text import Column, percent, print_table, to_json
from .train_options import OPTIONS as TRAIN
from .train_options import check_use, given_fields

EXAMPLE = """\
snntorch-stbp sweep mnistnet --bits 32,8,4,2,ternary,1 --seeds 3 --jobs 2
snntorch-stbp sweep resnet18 --dataset cifar10 --bits 32,4 --steps 1,2,4
snntorch-stbp sweep resnet18 --dataset cifar10 --bits 32,4,2 --qat-epochs 20"""

COLUMNS = (
    Column("bits", right=True),
    Column("T", right=True),
    Column("test accuracy", right=True),
    Column("seeds", right=True),
    Column("size, KB", right=True),
    Column("synaptic operations", right=True, spare=1),
    Column("Pareto front"),
)

OPTIONS = [
    Option(["--bits"], section="Sweep", type=Listed(BitsType(1, 8, ternary=True)),
           default="32,8,4,2,ternary,1", show_default=True, help="Widths of the weights."),
    Option(["--steps"], section="Sweep", type=Listed(Whole(1, "T")),
           help="Time steps; default: as the recipe."),
    Option(["--seeds"], section="Sweep", type=Whole(1), default=1, show_default=True,
           help="Runs of each, with seeds 0, 1, ..."),
    Option(["--qat-epochs"], section="Sweep", type=Whole(1),
           help="Let runs of fewer bits start from that of 32 bits, and take so many epochs."),
    Option(["--qat-lr"], section="Sweep", type=Real(0, above=True),
           help="Highest learning rate of these; default: a quarter of --lr."),
    Option(["--jobs"], section="Sweep", type=Whole(1), default=1, show_default=True,
           help="Runs at once, each a process with its part of the cores."),
    Option(["--out"], section="Sweep", metavar="DIR",
           help="The sweep's folder; default: sweeps/MODEL-DATASET."),
]  # fmt: skip

OWN = {"bits", "steps", "seed", "out", "resume", "quiet"}
"""Options of `train` that a sweep has of its own, or does without."""

PASSED = [option for option in TRAIN if option.name not in OWN]

ELSEWHERE = {"data_dir", "device", "devices", "num_nodes", "workers", "download", "jobs", "out"}
"""Options that the command in the table goes without: they depend on where it is run."""


@command(EXAMPLE, click.Argument(["model"]), *OPTIONS, *PASSED, json_option())
def sweep(model: str, as_json: bool, **options: Any) -> None:
    """Train MODEL at many bit widths and write one table and one picture of all runs.

    The options of `train` hold for all runs. The same command goes on with a sweep that was
    interrupted, and adds to one that is finished.
    """
    bits = [None if width == 32 else width for width in options["bits"]]
    typed = given_fields({str(option.name): options[str(option.name)] for option in PASSED})
    given = sources.with_constants(typed)
    catalog.check_augmentations(given.get("augment", ()))
    dataset = given.pop("dataset", "digits")
    qat = {name: options[name] for name in ("qat_epochs", "qat_lr")}
    steps = options["steps"] or [None]
    configs = plan(model, dataset, bits, steps, options["seeds"], **qat, **given)
    check_use(given, configs)
    name = f"{model}-{catalog.run_name(dataset)}"
    out = Path(options["out"] or Path("sweeps") / name)
    if out.is_file():
        raise UsageError(f"'{out}' is a file; name a folder with --out.")
    quiet = as_json or options["jobs"] > 1
    reporter = ClosableReporter() if quiet else make_reporter(quiet=False, as_json=False)

    from .quiet import hush

    hush()
    from snntorch_stbp.train.sweep.runs import run_all

    def notice(text: str) -> None:
        apart = "" if options["jobs"] > 1 else "\n"  # from the lines of the run before
        click.secho(f"{apart}{text}", bold=True, err=as_json)

    try:
        points = run_all(configs, out, reporter, notice, options["jobs"])
    except Interrupted:
        notice("stopped; the same command goes on with the sweep")
        raise
    finally:
        reporter.close()
    rows = summarize(points)
    if "layer_bits" in given:
        bits_file.write(out / "bits.json", given["layer_bits"])
    files = save(points, rows, out, _command(model, options, out))
    if as_json:
        click.echo(to_json([row.__dict__ for row in rows]))
        return
    click.echo()
    print_table(COLUMNS, [_cells(row) for row in rows])
    click.echo(f"\nwritten: {', '.join(str(file) for file in files)}")


def _cells(row: Row) -> list[str]:
    accuracy = "diverged" if row.mean is None else percent(row.mean)
    if row.seeds > 1:
        accuracy += f" +- {100 * row.spread:.2f}"
    return [
        word(row.bits), str(row.steps), accuracy, seeds(row), count(row.size_kb),
        count(row.additions), fronts(row),
    ]  # fmt: skip


def _command(model: str, options: dict[str, Any], out: Path) -> str:
    """The command that makes this table."""
    parts = ["snntorch-stbp", "sweep", model]
    for option in [*OPTIONS, *PASSED]:
        value = options[str(option.name)]
        if value is None or value is False or option.name in ELSEWHERE:
            continue
        parts.append(option.opts[-1])
        if option.name == "layer_bits":
            parts.append(str(out / "bits.json"))
        elif isinstance(value, tuple):
            parts.append(",".join(map(str, value)) or "none")
        elif value is not True:
            parts.append(str(value))
    return shell_words(parts)
