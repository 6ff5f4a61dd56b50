"""From a configuration to the data and the network that it names."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from .. import surrogate, zoo
from ..errors import StbpError
from ..files import expanded
from ..quant import Precision, load_float_state
from ..weights import LEARNED_RANGE
from . import data
from .catalog import parse
from .config import RunConfig
from .run import checkpoint
from .run.rundir import RunDir


def build_data(config: RunConfig, run: RunDir | None = None) -> data.DataBundle:
    """Load the data set of a run.

    Args:
        config: Its configuration.
        run: The run itself, if it was begun before with this data set.

    Raises:
        StbpError: If the data cannot be used.
    """
    if run is not None:
        _check_place(run, config.dataset)
    bundle = data.load(
        config.dataset,
        data_dir=config.data_dir,
        download=config.download,
        num_steps=config.steps,
        image_size=config.image_size,
        val_fraction=config.val_fraction,
        seed=config.held_out_seed,
        validate_on_test=config.validate_on_test,
    )
    if config.split_seed is None or config.validate_on_test:
        return bundle
    return replace(bundle, val_name=f"{bundle.val_name}, seed {config.split_seed}")


def _check_place(run: RunDir, dataset: str) -> None:
    """Refuse data that lie in the folder where a run was begun, and not in this one."""
    name, path = parse(dataset)
    if path is not None and not expanded(path).is_absolute() and not expanded(path).exists():
        raise StbpError(
            f"there is no '{path}' here: '{run.path}' names its data from the folder in which it "
            f"was begun; go there, or measure it with `evaluate --dataset {name}:PATH`."
        )


def build_model(config: RunConfig, bundle: data.DataBundle) -> nn.Module:
    """The network of a run, freshly initialised from the global random state."""
    precision = Precision(
        weight_bits=config.bits,
        act_bits=config.act_bits,
        input_bits=config.input_bits,
        membrane_bits=config.membrane_bits,
        membrane_grid=config.membrane_grid,  # type: ignore[arg-type]
        per_channel=config.per_channel,
        scale=config.scale,  # type: ignore[arg-type]
        boundary_bits=config.boundary_bits,
        input_max=bundle.input_max,
        weight_range=config.weight_range,  # type: ignore[arg-type]
    )
    curve = getattr(surrogate, config.surrogate)()
    if config.surrogate_centre == "zero":
        curve = replace(curve, centre=-config.threshold)
    return zoo.create(
        config.model,
        num_classes=len(bundle.classes),
        in_channels=bundle.channels,
        image_size=bundle.image_size,
        num_steps=config.steps,
        precision=precision,
        beta=config.beta,
        threshold=config.threshold,
        spike_grad=curve,
        readout=config.readout,
        init=config.init,
        learn_beta=config.learn_beta,
        learn_threshold=config.learn_threshold,
        layer_bits={name: None if bits == 32 else bits for name, bits in config.layer_bits.items()},
    )


WIDTHS = ("bits", "layer_bits", "boundary_bits")
"""Fields that say of how many bits each layer's weights are."""


def init_from(model: nn.Module, path: str, config: RunConfig) -> None:
    """Fill `model` with the best weights of another run, at whatever precision that run had.

    Ranges that were learned for other bits are left out.

    Raises:
        StbpError: If there is no such run, or it is of another model or architecture.
    """
    run = RunDir.open(path)
    file = run.path / "best.pt"
    state = checkpoint.load(file, config.model)
    weights = state["model"]
    if config.membrane_bits is not None and run.config.learn_threshold:
        raise StbpError(
            f"'{path}' learned its thresholds, and the levels of --membrane-bits lie around those "
            f"it began with: leave --membrane-bits out, or start from a run without "
            f"--learn-threshold."
        )
    if any(getattr(run.config, name) != getattr(config, name) for name in WIDTHS):
        weights = {k: v for k, v in weights.items() if not k.endswith(LEARNED_RANGE)}
    try:
        load_float_state(model, weights)
    except checkpoint.MISFITS as error:
        theirs, ours = run.config.readout, config.readout
        told = f" (it has --readout {theirs}, this run {ours})" * (theirs != ours)
        raise StbpError(f"cannot start from '{file}': {error}{told}.") from error
