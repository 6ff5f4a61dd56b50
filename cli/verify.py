"""`snntorch-stbp verify`: run an exported file again and compare it with its run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from snntorch_stbp.errors import StbpError, UsageError
from snntorch_stbp.train.run.rundir import RunDir

from .export_text import MISSING, WIDER, counts, facts, print_agreements
from .group import command, json_option
from .params import Whole
from .text import clean, counter, to_json

EXAMPLE = """\
snntorch-stbp verify RUN/export/fixed-point-unrolled.onnx --run RUN
snntorch-stbp verify RUN/export/fixed-point-folder --run RUN"""


@command(
    EXAMPLE,
    click.Argument(["file"]),
    click.Option(["--run"], metavar="RUN", required=True, help="The run it was exported from."),
    click.Option(["--samples"], type=Whole(1, "N"), default=32, show_default=True,
                 help=f"Test samples compared in QONNX's executor; {WIDER} N in onnxruntime."),
    click.Option(["--checkpoint"], type=click.Choice(["best", "last"]), default="best",
                 show_default=True, help="The checkpoint it was exported from."),
    click.Option(["--data-dir"], metavar="DIR", help="Where data sets are found."),
    json_option(),
)  # fmt: skip
def verify(file: str, run: str, as_json: bool, **options: Any) -> None:
    """Compare FILE, an exported graph or folder, with RUN: every spike and the readout.

    The network of the run is brought into the arithmetic of the file once more.
    """
    path = Path(file)
    if not path.exists():
        raise UsageError(f"there is no file '{path}'.")
    _check_kind(path)
    folder = RunDir.open(run)

    from .quiet import hush

    hush()
    try:
        from snntorch_stbp.export.recheck import metadata, recheck, recheck_folder
    except ImportError as error:
        raise StbpError(MISSING) from error
    from snntorch_stbp.train.data import examples
    from snntorch_stbp.train.evaluate import load_trained

    said = _of_folder(path) if path.is_dir() else metadata(path)
    _check_same(path, said, facts(folder, folder.config, options["checkpoint"]))
    trained = load_trained(folder, options["checkpoint"], data_dir=options["data_dir"])
    test = trained.bundle.test
    if path.is_dir():
        samples = examples(test, options["samples"])
        _folder(path, trained, recheck_folder, samples, as_json)
        return
    samples = examples(test, WIDER * options["samples"])
    agreements = recheck(
        path, _network(trained, said), samples, vectors=options["samples"],
        progress=None if as_json else counter("comparing sample"),
    )  # fmt: skip
    if as_json:
        seen = counts(agreements[0]) | {"onnxruntime": counts(agreements[1])}
        click.echo(to_json({"file": str(path), "arithmetic": said["arithmetic"], **seen}))
        return
    click.echo(f"{'graph':<10}{clean(path)} ({clean(said['arithmetic'])})")
    print_agreements(*agreements)


def _check_kind(path: Path) -> None:
    """Refuse exports of other kinds.

    Raises:
        StbpError: For a folder of C99 or of something else, or a NIR file.
    """
    takes = "`verify` takes a graph (.onnx) or a folder of --format folder"
    if path.is_dir() and not (path / "network.json").is_file():
        if (path / "selftest.c").is_file():
            raise StbpError(
                f"'{path}' is a network in C99, which tests itself: compile and run its "
                f"selftest.c; {takes}."
            )
        raise StbpError(f"'{path}' is no exported folder, it has no network.json: {takes}.")
    if path.suffix.lower() == ".nir":
        raise StbpError(
            f"'{path}' is a NIR file, which `export` compares with its run when it writes it "
            f"(again with --force): {takes}."
        )


def _of_folder(path: Path) -> dict[str, str]:
    """The metadata of an exported folder; of one that cannot be read, which is refused, none."""
    try:
        said = json.loads((path / "network.json").read_text("utf-8"))["metadata"].items()
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}
    return {name: text for name, text in said if isinstance(text, str)}


def _check_same(path: Path, said: dict[str, str], own: dict[str, str]) -> None:
    """Refuse an export of another network than that of the run, by what it says of it.

    Raises:
        StbpError: If it is of another network.
        UsageError: If it is of the other checkpoint.
    """
    for name in ("model", "bits", "steps", "beta", "threshold"):
        if said.get(name, own[name]) != own[name]:
            raise StbpError(
                f"'{path}' is of another network: it has {name} {said[name]}, that of the run "
                f"{own[name]}."
            )
    other = {"best": "last", "last": "best"}[own["checkpoint"]]
    if said.get("checkpoint") == other:
        raise UsageError(
            f"'{path}' was written from the {other} checkpoint of its run, not from the "
            f"{own['checkpoint']} one: give --checkpoint {other}."
        )


def _folder(path: Path, trained: Any, recheck: Any, samples: Any, as_json: bool) -> None:
    """Compare a folder of integers."""
    from snntorch_stbp.export import load_folder
    from snntorch_stbp.lowering.layers import REGISTER_BITS
    from snntorch_stbp.train.evaluate import lowered

    stored = load_folder(path)
    form, bits = stored.form, stored.settings.get(REGISTER_BITS, "24")
    if bits not in map(str, range(16, 32)):
        raise StbpError(f"'{path}' names registers of '{bits}' bits, not of 16 to 31.")
    net = lowered(trained, "simple" if form == "simple" else "exact", int(bits))
    seen = recheck(path, net, samples)
    if as_json:
        click.echo(
            to_json({"file": str(path), "arithmetic": f"fixed-point {form}", **counts(seen)})
        )
        return
    click.echo(f"{'folder':<10}{clean(path)} (fixed-point {form})")
    click.echo(
        f"{'verified':<10}{seen.spikes:,} spikes and {seen.scores:,} scores of {seen.samples} "
        f"test samples in NumPy: all equal"
    )


def _network(trained: Any, said: dict[str, str]) -> Any:
    """The network of the run in the arithmetic of a file.

    Raises:
        StbpError: If the file names an arithmetic that this version does not have.
    """
    from snntorch_stbp.frozen import Settings, freeze
    from snntorch_stbp.train.evaluate import lowered

    kind, _, detail = said["arithmetic"].partition(" ")
    if said["arithmetic"] == "as trained":
        return trained.model
    if kind == "deployment" and detail.isdecimal():
        try:
            settings = Settings(act_bits=int(detail))
        except ValueError as error:
            raise StbpError(f"this version knows no '{said['arithmetic']}': {error}.") from error
        return freeze(trained.model, settings)
    if kind == "fixed-point" and detail in ("exact", "simple", "quantized"):
        return lowered(trained, "simple" if detail == "simple" else "exact")
    raise StbpError(f"this version knows no arithmetic '{said['arithmetic']}'.")
