"""`snntorch-stbp export --format nir`: a trained run as a verified NIR file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from snntorch_stbp.errors import StbpError, UsageError
from snntorch_stbp.files import check_new
from snntorch_stbp.train.run.rundir import RunDir

from .export_kind import given
from .export_text import DEFAULTS, MISSING, command_line, counts, facts, verdict
from .text import counter, to_json

OTHERS = tuple(name for name in DEFAULTS if name not in ("format", "checkpoint"))
"""Options of `export` that say nothing about NIR."""


def export_nir(folder: RunDir, run: str, as_json: bool, options: dict[str, Any]) -> None:
    """Export the run in `folder`, given as `run`, and say what was verified.

    Raises:
        UsageError: For options that only QONNX has, or files that exist.
        StbpError: If NIR cannot say what the network does, or the file does not compute it.
    """
    if wrong := given(OTHERS, options):
        are, them = ("is", "it") if len(wrong) == 1 else ("are", "them")
        raise UsageError(
            f"{' and '.join(wrong)} {are} for other formats: --format nir, which writes one time "
            f"step of the network as trained, goes without {them}."
        )
    from .quiet import hush

    hush()
    try:
        from snntorch_stbp.export import to_nir
    except ImportError as error:
        raise StbpError(MISSING) from error
    path = Path(options["output"] or folder.path / "export" / "trained.nir")
    check_new([path], options["force"])
    from snntorch_stbp.train.data import examples
    from snntorch_stbp.train.evaluate import load_trained

    trained = load_trained(folder, options["checkpoint"], data_dir=options["data_dir"])
    samples = examples(trained.bundle.test, options["verify"])
    exported = to_nir(
        trained.model,
        samples,
        path,
        metadata={
            **facts(folder, trained.config, options["checkpoint"]),
            "command": command_line(run, options),
        },
        force=options["force"],
        progress=None if as_json else counter("comparing sample"),
    )
    quantized = trained.config.quantized
    if as_json:
        again = exported.snntorch
        said = {
            "files": [str(file) for file in exported.files],
            "format": "nir",
            "nodes": exported.nodes,
            **counts(exported.plain),
            "snntorch": None if again is None else counts(again),
            "quantized": quantized,
        }
        click.echo(to_json(said))
        return
    click.echo(f"{'graph':<10}{exported.path} (NIR, {exported.nodes:,} nodes)")
    click.echo(f"{'beside it':<10}{exported.files[1]}")
    for label, tool, agreement in (
        ("verified", "plain arithmetic", exported.plain),
        ("", "snnTorch", exported.snntorch),
    ):
        if agreement is not None:
            click.echo(
                f"{label:<10}{agreement.spikes:,} spikes and {agreement.scores:,} scores of "
                f"{agreement.samples} test samples in {tool}: {verdict(agreement)}"
            )
    if exported.unread is not None:
        click.echo(f"{'note':<10}snnTorch cannot read this graph: {exported.unread}")
    if not quantized:
        click.echo(
            f"{'note':<10}this run was trained in fp32: its weights are float "
            f"(train with --bits for few bits)"
        )
