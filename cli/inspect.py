"""`snntorch-stbp inspect`: what an exported file holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from snntorch_stbp.errors import StbpError, UsageError
from snntorch_stbp.files import check_new

from .group import command, json_option
from .text import Column, clean, paragraph, percent, table, to_json

if TYPE_CHECKING:
    from snntorch_stbp.export.reading.inspect import Inspected, Tensor

EXAMPLE = "snntorch-stbp inspect runs/mnistnet-digits-w4-T2-1/export/generic-unrolled.onnx"

MISSING = "inspect needs the QONNX tools: pip install 'snntorch-stbp[export]'."
WIDTH = 80

LAYERS = (
    Column("layer"),
    Column("operator", spare=1),
    Column("output", right=True),
    Column("weights", right=True),
    Column("bits", right=True),
    Column("parameters", right=True),
    Column("KB", right=True),
    Column("sums", right=True),
)
NEURONS = (
    Column("neurons"),
    Column("shape", right=True),
    Column("current", right=True),
    Column("spikes", right=True),
    Column("state", right=True),
    Column("state KB", right=True),
)


@command(
    EXAMPLE,
    click.Argument(["file"]),
    json_option(),
    click.Option(["--draw"], metavar="PATH", help="Draw the graph, too: a .png or .svg file."),
    click.Option(["--force"], is_flag=True, help="Replace a drawing that exists."),
)
def inspect(file: str, as_json: bool, draw: str | None, force: bool) -> None:
    """Show the layers, data types and memory of FILE, an ONNX or QONNX graph.

    The file need not come from this program. Layers that a graph repeats for every time step are
    listed and counted once. `sums` is the exact type of a layer's sums where weights and inputs
    are integers; KB are those of the weights, without biases, multipliers and thresholds.

    A drawing shows one time step: layers, input currents, neurons and their states, with the data
    type and shape of what runs between them.
    """
    picture = None if draw is None else Path(draw)
    if picture is not None:
        _check(picture, force)
    path = Path(file)
    if not path.is_file():
        kind = "is a folder" if path.is_dir() else "does not exist"
        raise StbpError(f"'{path}' {kind}; name an ONNX file, as `export` writes it.")
    if path.suffix.lower() == ".nir":
        raise StbpError(f"'{path}' is a NIR file; name an ONNX file, as `export` writes it.")

    from .quiet import hush

    hush()
    try:
        from snntorch_stbp.export.reading.inspect import as_data, read
    except ImportError as error:
        raise StbpError(MISSING) from error
    found = read(path)
    if picture is not None:
        from snntorch_stbp.export.reading.draw import draw as paint

        paint(found, picture)
    if as_json:
        click.echo(to_json(as_data(found)))
        return
    _print(found)
    if picture is not None:
        click.echo(f"\ndrawn    {clean(picture)}")


def _check(picture: Path, force: bool) -> None:
    """Refuse a path before anything is read."""
    if picture.suffix.lower() not in (".png", ".svg"):
        raise UsageError(f"a drawing is a .png or .svg file, not '{picture.name or picture}'.")
    check_new([picture], force)
    if not picture.parent.is_dir():
        raise StbpError(f"there is no folder '{picture.parent}' for the drawing.")


def _print(found: Inspected) -> None:
    click.secho(clean(found.path), bold=True)
    for label, text in _header(found):
        for line in paragraph(label, clean(text), 9, WIDTH):
            click.echo(line)
    if found.layers:
        _print_table(LAYERS, _layer_rows(found))
    else:
        click.echo("\nno layers with constant weights, and no pooling")
    if found.neurons:
        _print_table(NEURONS, _neuron_rows(found))
    click.echo()
    nodes = ", ".join(f"{count} {clean(kind)}" for kind, count in found.operators.items())
    for line in paragraph("nodes", f"{sum(found.operators.values()):,}: {nodes}", 9, WIDTH):
        click.echo(line)


def _header(found: Inspected) -> list[tuple[str, str]]:
    get, names = found.metadata.get, found.names
    lines = [("by", f"{found.producer}, opset {found.opset}")]
    if names is not None:
        steps = f"{names.steps} time step{'' if names.steps == 1 else 's'}"
        layout = ", channels last" if names.channels_last else ""
        held = f"one of {steps}" if names.form == "step" else steps
        lines.append(("form", f"{names.form} ({held}), batch {names.batch}{layout}"))
        lines.append(("target", str(found.target)))
    facts = [get("model", ""), get("dataset", "")]
    facts += [f"{get(key)} bits" for key in ("bits",) if get(key)]
    facts += [f"{key} {get(key)}" for key in ("beta", "threshold") if get(key)]
    if any(facts):
        lines.append(("network", ", ".join(filter(None, facts))))
    if get("test_accuracy") not in (None, "None"):
        lines.append(("accuracy", f"{_accuracy(get('test_accuracy', ''))} (the run's test set)"))
    lines += [("input", _tensor(tensor)) for tensor in found.inputs]
    lines += [("output", _tensor(tensor)) for tensor in found.outputs]
    if names is not None and names.states:
        lines.append(("states", f"{len(names.states)} inputs, each with an output to feed it"))
    return lines


def _accuracy(text: str) -> str:
    try:
        return percent(float(text))
    except ValueError:
        return text


def _tensor(tensor: Tensor) -> str:
    return f"{tensor.name} {_shape(tensor.shape)} {tensor.datatype or '-'}"


def _layer_rows(found: Inspected) -> list[list[str]]:
    rows = [
        [
            _short(layer.name),
            _short(layer.operator, 17),
            _shape(layer.shape, skip=1),
            layer.weight_type or "-",
            str(layer.weight_bits or "-"),
            f"{layer.parameters:,}" if layer.parameters else "-",
            f"{layer.weight_kb:,.2f}" if layer.parameters else "-",
            layer.accumulator or "-",
        ]
        for layer in found.layers
    ]
    total = ["total", "", "", "", "", f"{found.parameters:,}", f"{found.weight_kb:,.2f}", ""]
    return [*rows, total]


def _neuron_rows(found: Inspected) -> list[list[str]]:
    rows = [
        [
            _short(stage.name),
            _shape(stage.shape, skip=1),
            stage.current or "-",
            "yes" if stage.spiking else "no",
            " + ".join(kind for kind in (stage.state, stage.age) if kind) or "-",
            f"{stage.state_kb:,.2f}" if stage.state else "-",
        ]
        for stage in found.neurons
    ]
    memory = sum(stage.state_kb for stage in found.neurons)
    return [*rows, ["total", "", "", "", "", f"{memory:,.2f}"]]


def _print_table(columns: tuple[Column, ...], rows: list[list[str]]) -> None:
    heading, *lines = table(columns, rows, WIDTH)
    click.secho(f"\n{heading}", bold=True)
    for line in lines:
        click.echo(line)


def _shape(shape: list[int] | None, skip: int = 0) -> str:
    """A shape as `1x28x28`, unknown sizes as `?`; `skip` leaves the batch out."""
    if shape is None:
        return "?"
    return "x".join(str(n) if n > 0 else "?" for n in shape[skip:]) or "scalar"


def _short(name: str, width: int = 19) -> str:
    """A name for a narrow column: its end says most."""
    name = clean(name)
    return name if len(name) <= width else f"...{name[3 - width :]}"
