"""`snntorch-stbp export`: a trained run as a verified QONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from snntorch_stbp.errors import StbpError
from snntorch_stbp.files import check_new
from snntorch_stbp.train.run.rundir import RunDir

from .export_kind import kind_of
from .export_text import MISSING, WIDER, command_line, counts, facts, print_agreements
from .group import command, json_option
from .params import BitsType, Whole
from .text import counter, to_json

EXAMPLE = """\
snntorch-stbp export runs/resnet18-digits-w4-T2-1
snntorch-stbp export runs/mnistnet-digits-w4-T2-1 --form step --target hls4ml
snntorch-stbp export runs/resnet18-digits-w4-T2-1 --fixed-point --target hls4ml
snntorch-stbp export runs/mnistnet-digits-w4-T2-1 --format nir"""


@command(
    EXAMPLE,
    click.Argument(["run"]),
    click.Option(["--output"], metavar="FILE",
                 help="Where the graph goes; default: in RUN/export, named by what it is."),
    click.Option(["--format"], type=click.Choice(["qonnx", "nir", "folder", "c"]), default="qonnx",
                 show_default=True, help="QONNX, NIR for neuromorphic chips (as trained), or the"
                 " network of integers as a folder of arrays or as C99."),
    click.Option(["--form"], type=click.Choice(["unrolled", "step"]), default="unrolled",
                 show_default=True, help="All time steps in one graph, or one step with states."),
    click.Option(["--target"], type=click.Choice(["generic", "finn", "hls4ml"]),
                 default="generic", show_default=True, help="The reader it is written for."),
    click.Option(["--frozen"], is_flag=True,
                 help="Currents rounded to few bits, even where that changes many spikes."),
    click.Option(["--as-trained"], is_flag=True,
                 help="The plain float graph instead, for flows that do their own folding."),
    click.Option(["--fixed-point"], is_flag=True,
                 help="The network of integers: no operation in it can round."),
    click.Option(["--arithmetic"], type=click.Choice(["exact", "simple"]),
                 help="With --fixed-point: exact (default), or simple: one threshold."),
    click.Option(["--register-bits"], type=BitsType(24, 31, floating=False), default=24,
                 show_default=True, help="With --format folder or c: widest integers."),
    click.Option(["--verify"], type=Whole(1, "N"), default=32, show_default=True,
                 help=f"Test samples compared in QONNX's executor; {WIDER} N in onnxruntime."),
    click.Option(["--batch"], type=Whole(1), default=1, show_default=True,
                 help="Static batch size of the graph."),
    click.Option(["--act-bits"], type=BitsType(8, 12, floating=False),
                 help="Bits of input currents that training left float; default 10."),
    click.Option(["--checkpoint"], type=click.Choice(["best", "last"]), default="best",
                 show_default=True, help="The best epoch by validation, or the last one."),
    click.Option(["--data-dir"], metavar="DIR", help="Where data sets are found."),
    click.Option(["--force"], is_flag=True, help="Replace an earlier export."),
    json_option(),
)  # fmt: skip
def export(run: str, as_json: bool, **options: Any) -> None:
    """Export RUN to QONNX in arithmetic that no runtime can round differently.

    Input currents are rounded (--frozen); where that changes more than 1 % of the trained network's
    spikes, the network of integers is written in its place, which rounds none (--fixed-point), if
    the target can read it. A refined run is written in the arithmetic it was refined in. What
    either changes is measured and said.

    The file is run on real samples before it is kept: the spikes of every layer and the readout
    must equal those of the network in its arithmetic. With --as-trained and --format nir they must
    equal those of the trained network itself, but where float rounding explains a difference.
    """
    folder = RunDir.open(run)
    if not (folder.path / f"{options['checkpoint']}.pt").is_file():
        raise StbpError(f"'{folder.path}' never finished an epoch: there is nothing to export yet.")
    if options["format"] == "nir":
        from .export_nir import export_nir

        export_nir(folder, run, as_json, options)
        return
    kind = kind_of(options)
    if options["format"] in ("folder", "c"):
        _hushed()
        from .export_fixed import export_folder

        export_folder(folder, run, as_json, options)
        return
    _hushed()
    from snntorch_stbp.export import to_qonnx
    from snntorch_stbp.train.data import examples
    from snntorch_stbp.train.evaluate import frozen_settings, load_trained

    from .export_arithmetic import choose

    settings = frozen_settings(folder.config, options["act_bits"])
    check_new([_path(folder, kind, options)], options["force"])  # before anything is measured
    trained = load_trained(folder, options["checkpoint"], data_dir=options["data_dir"])
    samples = examples(trained.bundle.test, WIDER * options["verify"])
    chosen = choose(trained, settings, options)
    if chosen.fixed is not None:
        options["fixed_point"] = True
        kind = kind_of(options)
    exported = to_qonnx(
        chosen.net, samples, _path(folder, kind, options), form=options["form"],
        target=options["target"], as_trained=options["as_trained"], batch=options["batch"],
        vectors=options["verify"], force=options["force"],
        progress=None if as_json else counter("comparing sample"),
        metadata={
            **facts(folder, trained.config, options["checkpoint"]),
            **(chosen.fixed.net.integers.settings if chosen.fixed else {}),
            "arithmetic": chosen.arithmetic,  # `verify` reads it
            "command": command_line(run, options),
        },
    )  # fmt: skip
    if as_json:
        click.echo(to_json(_said(exported, trained.config, options) | chosen.facts()))
        return
    _print(exported, f"{options['form']}, {kind.replace('-', ' ')}")
    chosen.print()
    if not trained.config.quantized and not options["as_trained"]:
        click.echo(
            f"{'note':<10}this run was trained in fp32: nothing is quantized; its weights were put "
            f"on a grid fine enough to stay exact (train with --bits for few bits)"
        )


def _path(folder: RunDir, kind: str, options: dict[str, Any]) -> Path:
    """Where the graph goes."""
    named = folder.path / "export" / f"{kind}-{options['form']}.onnx"
    return Path(options["output"] or named)


def _said(exported: Any, config: Any, options: dict[str, Any]) -> dict[str, Any]:
    """What was written and compared, as data."""
    return {
        "files": [str(file) for file in exported.files],
        **{name: options[name] for name in ("form", "target", "as_trained")},
        "nodes": exported.nodes,
        **counts(exported.agreement),
        "onnxruntime": counts(exported.onnxruntime),
        "quantized": config.quantized,
    }


def _hushed() -> None:
    """Load the tools of export without what they print.

    Raises:
        StbpError: If they are not installed.
    """
    from .quiet import hush

    hush()
    try:
        import snntorch_stbp.export  # noqa: F401
    except ImportError as error:
        raise StbpError(MISSING) from error


def _print(exported: Any, kind: str) -> None:
    """What was written and compared."""
    click.echo(f"{'graph':<10}{exported.path} ({kind}, {exported.nodes:,} nodes)")
    for file in exported.files[1:]:
        click.echo(f"{'beside it':<10}{file}")
    print_agreements(exported.agreement, exported.onnxruntime)
