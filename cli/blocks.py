"""The texts of a training run: the block at its start, a line per epoch, the block at its end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .text import bits, duration, paragraph, percent

HEADING = (
    f"{'epoch':^9}{'loss':>9} {'acc':>9}{'val loss':>10} {'val acc':>9} {'images/s':>10}"
    f"{'spikes':>8}  time"
)

SMALL = (
    "digits is the small embedded data set; for larger ones use --dataset mnist or cifar10 with"
    " --download, npz:FILE or folder:PATH"
)


def start_block(summary: Mapping[str, Any], width: int | None = None) -> list[str]:
    """The lines that say what is trained on what.

    Args:
        summary: As `Reporter.started` gets it.
        width: Columns to wrap at; None leaves lines whole.
    """
    get = summary.get
    width_of = get("bits")
    kinds = [
        f"{width_of}-bit weights" if isinstance(width_of, int) else f"{bits(width_of)} weights"
    ]
    if get("layer_bits"):
        kinds = [f"weights of {get('mean_bits'):.2f} bits on average"]
    for key, name in (("input", "input"), ("act", "currents"), ("membrane", "membranes")):
        width_of = get(f"{key}_bits")
        if width_of is not None:
            kinds.append(f"{width_of}-bit {name}")
    steps = f"{get('steps')} time step{'' if get('steps') == 1 else 's'}"
    parts = {
        "model": f"{get('model')}, {', '.join(kinds)}, {steps}",
        "data": f"{get('dataset')}, {get('source')}",
        "": f"{get('train'):,} to train, {get('val'):,} to validate ({get('val_name')}), "
        f"{get('test'):,} to test; {get('classes')} classes",
        "device": f"{get('device')}{_times(get('devices'))}, {_precision(get('precision'))}",
        "size": f"{get('parameters'):,} parameters, {get('size_kb'):,.0f} KB at these bits",
        "run": str(get("run")),
    }
    if get("dataset") == "digits":
        parts["note"] = SMALL
    return [line for name, text in parts.items() for line in paragraph(name, text, 9, width)]


def epoch_line(row: Mapping[str, Any], epochs: int) -> str:
    """One epoch under `HEADING`; a star marks the best one so far, a dash what is missing."""
    star = "*" if row.get("best") else ""

    def show(name: str, write: Callable[[float], str]) -> str:
        value = row.get(name)
        return write(value) if isinstance(value, int | float) else "-"

    train, val = show("train_accuracy", percent), show("val_accuracy", percent)
    losses = [show(name, "{:.4f}".format) for name in ("train_loss", "val_loss")]
    speed, rate = show("images_per_second", "{:,.0f}".format), show("spike_rate", "{:.3f}".format)
    return (
        f"{row['epoch']:>4}/{epochs:<4}{losses[0]:>9} {train:>9}{losses[1]:>10} {val:>9}{star:1}"
        f"{speed:>10}{rate:>8}  {show('seconds', duration)}"
    )


def end_block(result: Mapping[str, Any]) -> list[str]:
    """The lines that say how it went and what to type next."""
    best = f"{percent(result['best_val_accuracy'])} at epoch {result['best_epoch']}"
    if result.get("test_accuracy") is None:
        if result.get("select") == "last":
            lines = [f"accuracy on the test set: {best}, the last one"]
        else:
            lines = [
                f"best accuracy on the test set: {best}",
                "(it also chose the epoch: for an honest test leave out --validate-on-test)",
            ]
    else:
        lines = [
            f"test accuracy: {percent(result['test_accuracy'])}",
            f"validation ({result['val_name']}): {best}",
        ]
    lines.append(f"trained for {duration(result['seconds'])}; all of it is in {result['run']}")
    lines.append(f"next: {result['next']}")
    return lines


def _times(devices: Any) -> str:
    return f" x {devices}" if isinstance(devices, int) and devices > 1 else ""


def _precision(precision: Any) -> str:
    return "32-bit floats" if str(precision) == "32" else str(precision)
