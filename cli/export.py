"""`snntorch-stbp export`: a trained run as a verified QONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from snntorch_stbp.errors import StbpError, UsageError
from snntorch_stbp.train.run.rundir import RunDir

from .export_text import MISSING, WIDER, command_line, counts, facts, print_agreements
from .group import command, json_option
from .params import BitsType, Whole
from .text import counter, to_json

if TYPE_CHECKING:
    from .export_change import Change
    from .export_fixed import FixedPoint

NOTED = 0.01
"""Share of spikes that differ from which on the remedies are named."""

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
    click.Option(["--as-trained"], is_flag=True,
                 help="The plain float graph instead, for flows that do their own folding."),
    click.Option(["--fixed-point"], is_flag=True,
                 help="The network of integers: no operation in it can round."),
    click.Option(["--arithmetic"], type=click.Choice(["exact", "simple"]),
                 help="With --fixed-point: exact (default), or simple: one threshold."),
    click.Option(["--verify"], type=Whole(1, "N"), default=32, show_default=True,
                 help=f"Test samples compared in QONNX's executor; {WIDER} N in onnxruntime."),
    click.Option(["--batch"], type=Whole(1), default=1, show_default=True,
                 help="Static batch size of the graph."),
    click.Option(["--act-bits"], type=BitsType(8, 12, floating=False),
                 help="Bits of input currents that training left float; default 10."),
    click.Option(["--checkpoint"], type=click.Choice(["best", "last"]), default="best",
                 show_default=True, help="The best epoch by validation, or the last one."),
    click.Option(["--data-dir"], metavar="DIR", help="Where data sets are found."),
    click.Option(["--force"], is_flag=True, help="Replace files that exist."),
    json_option(),
)  # fmt: skip
def export(run: str, as_json: bool, **options: Any) -> None:
    """Export RUN to QONNX in arithmetic that no runtime can round differently.

    The file is run on real samples before it is kept: the spikes of every layer and the readout
    must equal those of the trained network in deployment arithmetic, or with --fixed-point those of
    the network of integers; what either changed is measured and said. With --as-trained and
    --format nir they must equal those of the trained network itself, but where float rounding
    explains a difference.
    """
    folder = RunDir.open(run)
    if not (folder.path / f"{options['checkpoint']}.pt").is_file():
        raise StbpError(f"'{folder.path}' never finished an epoch: there is nothing to export yet.")
    if options["format"] == "nir":
        from .export_nir import export_nir

        export_nir(folder, run, as_json, options)
        return
    kind = _kind(options)
    if options["format"] in ("folder", "c"):
        _hushed()
        from .export_fixed import export_folder

        export_folder(folder, run, as_json, options)
        return
    path = Path(options["output"] or folder.path / "export" / f"{kind}-{options['form']}.onnx")

    _hushed()
    from snntorch_stbp.export import to_qonnx
    from snntorch_stbp.frozen import FrozenNet, freeze
    from snntorch_stbp.train.data import examples
    from snntorch_stbp.train.evaluate import frozen_settings, load_trained

    from .export_change import changed

    settings = frozen_settings(folder.config, options["act_bits"])
    trained = load_trained(folder, options["checkpoint"], data_dir=options["data_dir"])
    samples = examples(trained.bundle.test, WIDER * options["verify"])
    fixed, net = _integers(trained, options), trained.model
    if fixed is not None:
        net, arithmetic = fixed.net, f"fixed-point {fixed.net.integers.form}"
    elif options["as_trained"]:
        arithmetic = "as trained"
    else:
        net, arithmetic = freeze(net, settings), f"deployment {settings.act_bits}"
    exported = to_qonnx(
        net, samples, path, form=options["form"], target=options["target"],
        as_trained=options["as_trained"], batch=options["batch"], vectors=options["verify"],
        force=options["force"], progress=None if as_json else counter("comparing sample"),
        metadata={
            **facts(folder, trained.config),
            **(fixed.net.integers.settings if fixed else {}),
            "arithmetic": arithmetic,  # `verify` reads it
            "command": command_line(run, options),
        },
    )  # fmt: skip
    change = changed(trained, net) if isinstance(net, FrozenNet) else None
    if as_json:
        said = _said(exported, trained.config, options)
        said |= {} if change is None else {"deployment": change.facts()}
        click.echo(to_json(said if fixed is None else said | {"fixed_point": fixed.facts()}))
        return
    _print(exported, f"{options['form']}, {kind.replace('-', ' ')}")
    if fixed is not None:
        fixed.print()
    if change is not None:
        change.print()
        _print_remedy(change)
    if not trained.config.quantized and not options["as_trained"]:
        click.echo(
            f"{'note':<10}this run was trained in fp32: nothing is quantized; its weights were put "
            f"on a grid fine enough to stay exact (train with --bits for few bits)"
        )


def _print_remedy(change: Change) -> None:
    """What follows the trained network more closely, where deployment changed much of it."""
    if change.spikes_differ > NOTED:
        click.echo(
            f"{'note':<10}rounded currents changed these spikes; --fixed-point rounds none, and "
            f"`finetune RUN --frozen` trains in the arithmetic of this file"
        )


def _integers(trained: Any, options: dict[str, Any]) -> FixedPoint | None:
    """The network of integers, if that is what is to be written."""
    if not options["fixed_point"]:
        return None
    from .export_fixed import measured

    return measured(trained, options["arithmetic"] or "exact")


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


def _kind(options: dict[str, Any]) -> str:
    """What is written, as part of a file name.

    Raises:
        UsageError: If options exclude each other.
    """
    as_trained, fixed_point = options["as_trained"], options["fixed_point"]
    if as_trained and fixed_point:
        raise UsageError("--as-trained and --fixed-point exclude each other; choose one.")
    if options["arithmetic"] is not None and not fixed_point:
        raise UsageError("--arithmetic chooses how integers are made: it needs --fixed-point.")
    if options["act_bits"] is not None and (as_trained or fixed_point):
        other = "--as-trained" if as_trained else "--fixed-point"
        raise UsageError(f"--act-bits changes deployment arithmetic: {other} goes without it.")
    if fixed_point and options["target"] == "finn":
        for name, value in (("form", "step"), ("arithmetic", "simple")):
            if options[name] == value:
                raise UsageError(
                    f"FINN has no floor, which --{name} {value} of integers needs: leave it out, "
                    f"or take --target generic."
                )
    if as_trained:
        return "as-trained"
    target = str(options["target"])
    if fixed_point:
        return "fixed-point" if target == "generic" else f"fixed-point-{target}"
    return target


def _print(exported: Any, kind: str) -> None:
    """What was written and compared."""
    click.echo(f"{'graph':<10}{exported.path} ({kind}, {exported.nodes:,} nodes)")
    for file in exported.files[1:]:
        click.echo(f"{'beside it':<10}{file}")
    print_agreements(exported.agreement, exported.onnxruntime)
