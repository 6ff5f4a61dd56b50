"""The options of training, which `train` and `sweep` share, and what was typed of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import click

from snntorch_stbp.errors import UsageError
from snntorch_stbp.train.config import CHOICES, RunConfig

from .group import Option
from .params import BitsFile, BitsType, Names, Real, Runs, Whole


def _choice(name: str) -> click.Choice[str]:
    return click.Choice(CHOICES[name])


OPTIONS = [
    Option(["--bits"], section="Precision", type=BitsType(1, 8, ternary=True),
           help="Weights; default: 32, which is floating point."),
    Option(["--act-bits"], section="Precision", type=BitsType(2, 16),
           help="Input currents of neurons; default: 32."),
    Option(["--membrane-bits"], section="Precision", type=BitsType(2, 16),
           help="Membrane potentials; default: 32."),
    Option(["--membrane-grid"], section="Precision", type=_choice("membrane_grid"),
           metavar="KIND",
           help="Their levels: uniform (default), or threshold (dense there; not for export)."),
    Option(["--input-bits"], section="Precision", type=BitsType(1, 8),
           help="Images; default: 8."),
    Option(["--boundary-bits"], section="Precision", type=BitsType(2, 8, floating=False),
           help="Weights of the first and last layer, where these should differ."),
    Option(["layer_bits", "--bits-file"], section="Precision", type=BitsFile(),
           help="Weights by layer, in place of --bits: JSON such as {\"head.*\": 8}."),
    Option(["--per-tensor"], section="Precision", is_flag=True,
           help="One weight scale per layer, not per output channel."),
    Option(["--weight-range"], section="Precision", type=_choice("weight_range"), metavar="KIND",
           help="Weights are clipped where it costs least (fitted, default), where training moves "
           "that to (learned, default of 2 bits with --init-from), or not at all (max)."),
    Option(["--scale"], section="Precision", type=_choice("scale"),
           help="Any scales (float, default) or powers of two."),
    Option(["--dataset"], section="Data", metavar="NAME",
           help="digits (default) or a name that `datasets` lists."),
    Option(["--data-dir"], section="Data", metavar="DIR",
           help="Folder of downloaded data sets; default: data."),
    Option(["--download"], section="Data", is_flag=True, help="Fetch a missing data set."),
    Option(["--image-size"], section="Data", type=Whole(0, "PIXELS"),
           help="Resize to this height and width; 0 keeps them."),
    Option(["--augment"], section="Data", type=Names(),
           help="Augmentations, such as crop,flip, or crop:2 for 2 pixels; `datasets` lists them."),
    Option(["--mixup"], section="Data", type=Real(0, 100), metavar="ALPHA",
           help="Blend every image with another, such as 0.2; 0 for none."),
    Option(["--refine-epochs"], section="Data", type=Whole(0),
           help="Last epochs in which images are cropped and mirrored only."),
    Option(["--val-fraction"], section="Data", type=Real(0.01, 0.9),
           help="Part of the training data held out; default: 0.1."),
    Option(["--validate-on-test"], section="Data", is_flag=True,
           help="Hold nothing out; the test set picks the best epoch."),
    Option(["--select"], section="Data", type=_choice("select"),
           help="Weights that count: best on what is held out (default), or last."),
    Option(["--steps"], section="Neuron", type=Whole(1, "T"), help="Time steps."),
    Option(["--beta"], section="Neuron", type=Real(0, 1),
           help="Part of a membrane potential left after a step."),
    Option(["--threshold"], section="Neuron", type=Real(0, above=True),
           help="Membrane potential above which a neuron fires."),
    Option(["--surrogate"], section="Neuron", type=_choice("surrogate"), metavar="CURVE",
           help="rectangular, polynomial, sigmoid, gaussian, fast_sigmoid or atan."),
    Option(["--surrogate-centre"], section="Neuron", type=_choice("surrogate_centre"),
           help="Its middle: the threshold or a membrane potential of zero."),
    Option(["--learn-beta"], section="Neuron", is_flag=True,
           help="Learn that part, layer by layer, from --beta on."),
    Option(["--learn-threshold"], section="Neuron", is_flag=True,
           help="Learn the thresholds, layer by layer, from --threshold on."),
    Option(["--readout"], section="Neuron", type=_choice("readout"), metavar="KIND",
           help="current, rate or population."),
    Option(["--recipe"], section="Training", type=_choice("recipe"),
           help="standard (default), or seed for the method of STBP-train-and-compression."),
    Option(["--init"], section="Training", type=_choice("init"),
           help="First weights of layers without norm: in units of the threshold, or torch's."),
    Option(["--epochs"], section="Training", type=Whole(1), help="Passes over the data."),
    Option(["--batch-size"], section="Training", type=Whole(1),
           help="Images per step, over all devices."),
    Option(["--lr"], section="Training", type=Real(0, above=True), help="Highest learning rate."),
    Option(["--optimizer"], section="Training", type=_choice("optimizer"), metavar="NAME",
           help="adamw, adam, sgd or muon."),
    Option(["--momentum"], section="Training", type=Real(0, 0.9999),
           help="Of --optimizer sgd; default: 0.9."),
    Option(["--no-nesterov"], section="Training", is_flag=True,
           help="Plain momentum for --optimizer sgd, not Nesterov's."),
    Option(["--weight-decay"], section="Training", type=Real(0), help="Decay of the weights."),
    Option(["--schedule"], section="Training", type=_choice("schedule"), metavar="KIND",
           help="Learning rate after warm-up: cosine or constant."),
    Option(["--warmup-epochs"], section="Training", type=Whole(0),
           help="Epochs in which the learning rate rises."),
    Option(["--loss"], section="Training", type=_choice("loss"), metavar="NAME",
           help="cross_entropy, tet or mse_rate."),
    Option(["--label-smoothing"], section="Training", type=Real(0, 0.999),
           help="Part of a label that all classes share."),
    Option(["--spike-rate-target"], section="Training", type=Real(0, 1), metavar="RATE",
           help="Hidden layers pay for more spikes per neuron and step than this."),
    Option(["--spike-rate-weight"], section="Training", type=Real(0, above=True),
           help="Weight of that in the loss; default: 1."),
    Option(["--clip-grad"], section="Training", type=Real(0),
           help="Largest norm of the gradient; 0 for no limit."),
    Option(["--ema"], section="Training", type=Real(0, 0.999999), metavar="DECAY",
           help="Validate and save the moving average of the weights, such as 0.999; 0 for none."),
    Option(["--init-from"], section="Training", metavar="RUN",
           help="Start from the weights of another run, and hold out what it held out."),
    Option(["--teacher"], section="Training", type=Runs(),
           help="Learn from the scores of another run, too, or of several."),
    Option(["--distill-weight"], section="Training", type=Real(0, 1),
           help="Share of the --teacher in the loss; default: 0.5."),
    Option(["--temperature"], section="Training", type=Real(0, above=True),
           help="Softens the scores of both before they are compared; default: 4."),
    Option(["--frozen-aware"], section="Training", is_flag=True,
           help="Refine an --init-from run in the arithmetic that is exported."),
    Option(["--fixed-point-aware"], section="Training", is_flag=True,
           help="Refine an --init-from run as the network of integers that it becomes."),
    Option(["--seed"], section="Training", type=Whole(0),
           help="Of weights, order, augmentation and what is held out; default: 0."),
    Option(["--device"], section="Device", type=_choice("device"), metavar="KIND",
           help="auto (default), cpu, cuda or mps."),
    Option(["--precision"], section="Device", type=_choice("precision"), metavar="KIND",
           help="Arithmetic: 32 (default), bf16-mixed or 16-mixed."),
    Option(["--devices"], section="Device", type=Whole(1),
           help="GPUs, or processes on a CPU; default: 1."),
    Option(["--num-nodes"], section="Device", type=Whole(1), help="Machines; default: 1."),
    Option(["--workers"], section="Device", type=Whole(0),
           help="Processes that load data; default: 0."),
    Option(["--compile"], section="Device", is_flag=True,
           help="Use torch.compile; on a CPU it is slower than what is compiled already."),
    Option(["--no-cuda-graphs"], section="Device", is_flag=True,
           help="On a GPU, start every kernel by itself: slower, for less memory or to debug."),
    Option(["--save-memory"], section="Device", is_flag=True,
           help="Keep spikes as bits, and compute again what is cheap: slower, the same result."),
    Option(["--checkpoint-activations"], section="Device", is_flag=True,
           help="Keep what enters each block, and compute the rest again: slower still."),
    Option(["--out"], section="Run", metavar="DIR", default="runs", show_default=True,
           help="Where the run's folder is made."),
    Option(["--resume"], section="Run", metavar="RUN",
           help="Go on with a run; a higher --epochs prolongs it."),
    Option(["--quiet"], is_flag=True,
           help="Print the run's folder only, at the end."),
]  # fmt: skip


def given_fields(values: dict[str, Any]) -> dict[str, Any]:
    """What was typed, as fields of a configuration: 32 bits and 0 for "none" become `None`."""
    given = {n: value for n, value in values.items() if value is not None and value is not False}
    if given.pop("per_tensor", False):
        given["per_channel"] = False
    if given.pop("no_nesterov", False):
        given["nesterov"] = False
    if given.pop("no_cuda_graphs", False):
        given["cuda_graphs"] = False
    return {name: None if value == off(name) else value for name, value in given.items()}


def off(name: str) -> int | None:
    """What is typed where the field `name` is to be `None`, or `None` where nothing is."""
    if name.endswith("bits") and name not in ("boundary_bits", "layer_bits"):
        return 32
    return 0 if name in ("image_size", "clip_grad", "ema", "mixup") else None


def check_use(given: Collection[str], configs: Sequence[RunConfig]) -> None:
    """Make sure that every field that was typed has an effect on a run of `configs`.

    Args:
        given: The fields.
        configs: Of runs that differ in bits, time steps and seeds.

    Raises:
        UsageError: If one has none.
    """
    config = configs[0]
    for name, option in (("weight_range", "--weight-range"), ("per_channel", "--per-tensor")):
        if name in given and not any(each.quantized for each in configs):
            raise UsageError(f"{option} is for quantized weights: give --bits, or leave it out.")
    if "scale" in given and not any(c.quantized or c.act_bits or c.membrane_bits for c in configs):
        raise UsageError("--scale is for quantized networks: give --bits, or leave it out.")
    if "init" in given and all(each.init_from for each in configs):
        raise UsageError("--init is of new weights, --init-from has others: leave either out.")
    if config.teacher and config.distill_weight == 0:
        raise UsageError("a --distill-weight of 0 teaches nothing: leave --teacher out.")
    if "boundary_bits" in given and all(each.bits is None for each in configs):
        raise UsageError("--boundary-bits is for quantized weights: give --bits, or leave it out.")
    for name in ("momentum", "nesterov"):
        if name in given and config.optimizer != "sgd":
            option = "--momentum" if name == "momentum" else "--no-nesterov"
            raise UsageError(f"{option} is for --optimizer sgd, not for {config.optimizer}.")
    for name in ("distill_weight", "temperature"):
        if name in given and not config.teacher:
            raise UsageError(f"--{name.replace('_', '-')} needs a --teacher.")
    if "refine_epochs" in given and config.refine_epochs and config.at(config.epochs) == config:
        raise UsageError(
            "--refine-epochs leaves out mixup and what --augment does besides crop and flip: "
            "give either, or leave it out."
        )
    if "val_fraction" in given and config.validate_on_test:
        raise UsageError("--val-fraction holds images out, --validate-on-test none: leave one out.")
    if "spike_rate_weight" in given and config.spike_rate_target is None:
        raise UsageError("--spike-rate-weight needs a --spike-rate-target.")
