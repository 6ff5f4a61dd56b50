"""What every export says: of its run, in the file, and of what was compared, on the terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import click

from snntorch_stbp.files import shell_words
from snntorch_stbp.train.run.rundir import RunDir

MISSING = "export needs the QONNX tools: pip install 'snntorch-stbp[export]'."

WIDER = 16
"""So many times the samples of QONNX's executor, which is slow, are run with onnxruntime."""

DEFAULTS = {
    "format": "qonnx",
    "form": "unrolled",
    "target": "generic",
    "frozen": False,
    "as_trained": False,
    "fixed_point": False,
    "arithmetic": None,
    "register_bits": 24,
    "act_bits": None,
    "batch": 1,
    "checkpoint": "best",
}
"""Options of `export` that decide about what is written, and their defaults."""


def facts(folder: RunDir, config: Any, checkpoint: str) -> dict[str, str]:
    """What a file says of the run, and of its checkpoint, that it comes from."""
    return {
        "model": config.model,
        "dataset": config.dataset,
        "bits": "mixed" if config.layer_bits else str(config.bits or 32),
        "steps": str(config.steps),
        "beta": str(config.beta),
        "threshold": str(config.threshold),
        "checkpoint": checkpoint,
        "test_accuracy": str((folder.result or {}).get("test_accuracy")),
        "train": json.dumps(config.to_json()),
    }


def command_line(run: str, options: Mapping[str, Any]) -> str:
    """The command that writes the same file again: the options that decide about it."""
    named = run.encode(errors="backslashreplace").decode()  # files hold nothing but text
    words = ["snntorch-stbp export", shell_words([named])]
    for name, default in DEFAULTS.items():
        value = options[name]
        if value != default:
            words.append(f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}"))
    return " ".join(words)


def counts(agreement: Any) -> dict[str, float]:
    """What was compared, for JSON."""
    return {
        "samples": agreement.samples,
        "spikes_compared": agreement.spikes,
        "scores_compared": agreement.scores,
        "differences": agreement.differences,
        "samples_rounded": agreement.rounded,
        "largest_margin": agreement.margin,
    }


def print_agreements(qonnx: Any, onnxruntime: Any) -> None:
    """What two runtimes computed as the network does."""
    for label, tool, agreement in (
        ("verified", "QONNX's executor", qonnx),
        ("", "onnxruntime", onnxruntime),
    ):
        click.echo(
            f"{label:<10}{agreement.spikes:,} spikes and {agreement.scores:,} scores of "
            f"{agreement.samples} test samples in {tool}: {verdict(agreement)}"
        )


def verdict(agreement: Any) -> str:
    """All equal, or how many spikes differ for float rounding."""
    if not agreement.rounded:
        return "all equal"
    return (
        f"{agreement.differences:,} spikes differ, in {agreement.rounded} samples where float "
        f"rounding turned a decision (at most {agreement.margin:.1e} from its boundary)"
    )
