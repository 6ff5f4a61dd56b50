"""The table of models, and `create`, which builds one of them (torch is imported only there).

Other packages add models by entry points, `NAME = "module:builder"` in the group `ENTRY_POINTS`;
scripts by `register`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from numbers import Integral
from typing import TYPE_CHECKING, Any

from snntorch_stbp.errors import StbpError, UsageError, suggest

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from torch import nn

    from snntorch_stbp.quant import Bits, Precision

    from .parts import Parts

ENTRY_POINTS = "snntorch_stbp.models"
READOUTS = ("current", "rate", "population")
INITS = ("threshold", "torch")

STBP = "Wu 2018, doi:10.3389/fnins.2018.00331"
DIRECT = "Wu 2019, arXiv:1809.05793"
TDBN = "Zheng 2021, arXiv:2011.05280"
VGG = "Simonyan 2015, arXiv:1409.1556"


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a model before it is built.

    Args:
        name: Name for `create`.
        family: Module of this package that builds it: `convnets`, `resnet` or `vgg`; of a model
            from elsewhere its own name.
        paper: Where the structure or its training comes from.
        min_size: Smallest height and width of an image, in pixels.
        description: One line.
        builder: Builds a model from elsewhere at the settings of a run.
    """

    name: str
    family: str
    paper: str
    min_size: int
    description: str
    builder: Callable[[Parts], nn.Module] | None = None


MODELS = {
    row[0]: ModelInfo(*row)
    for row in (
        ("mnistnet", "convnets", STBP, 4, "2 convolutions 5x5 (15, 40), 2 linear layers"),
        ("mnistnet_bn", "convnets", TDBN, 4, "mnistnet with tdBN"),
        ("nmnistnet", "convnets", STBP, 10, "2 convolutions 3x3 (20, 50), 2 linear layers"),
        ("nmnistnet_bn", "convnets", TDBN, 10, "nmnistnet with tdBN"),
        ("cifarnet", "convnets", DIRECT, 4, "5 convolutions (128 to 1024), 3 linear layers, tdBN"),
        ("cifarnet_neunorm", "convnets", DIRECT, 4, "cifarnet with NeuNorm in place of tdBN"),
        ("resnet18", "resnet", TDBN, 4, "residual, stem 64, stages 128-256-512, blocks 3-3-2"),
        ("resnet19", "resnet", TDBN, 4, "residual, stem 128, stages 128-256-512, blocks 3-3-2"),
        ("resnet34", "resnet", TDBN, 32, "residual for large images, stages 64 to 512, 3-4-6-3"),
        *(
            (f"vgg{depth}{suffix}", "vgg", paper, 32, f"{depth - 3} convolutions, 3 linear{norm}")
            for depth in (11, 13, 16, 19)
            for suffix, paper, norm in (("", VGG, " layers"), ("_bn", VGG, " layers, tdBN"))
        ),
    )
}


_REGISTERED: dict[str, ModelInfo] = {}


def register(
    name: str,
    builder: Callable[[Parts], nn.Module],
    *,
    description: str = "",
    paper: str = "",
    min_size: int = 1,
) -> None:
    """Add a model to those that `create` and the command line know, in this process.

    Args:
        name: Its name.
        builder: Takes the settings of a run, `Parts`, which also makes layers at these settings,
            and returns a module that maps images `[B, C, H, W]` or frames `[T, B, C, H, W]` to a
            record `[T, B, K]`.
        description: One line.
        paper: Where it comes from.
        min_size: Smallest height and width of an image, in pixels.

    Raises:
        UsageError: If there is a model of that name, it is none, or `builder` is no function.
    """
    if not (isinstance(name, str) and name.translate(str.maketrans("-.", "__")).isidentifier()):
        raise UsageError(f"a model has a name of letters, digits, _, - and dots, not {name!r}.")
    if not callable(builder):
        raise UsageError(f"the builder of '{name}' is a function of Parts, not {builder!r}.")
    if name in list_models():
        raise UsageError(f"There is a model '{name}' already: choose another name.")
    _REGISTERED[name] = ModelInfo(name, name, paper, min_size, description, builder)


def list_models() -> list[str]:
    """Names of all models: the zoo's own, and those that other packages or scripts added."""
    return list(dict.fromkeys([*MODELS, *_offered(), *_REGISTERED]))


@cache
def _offered() -> dict[str, EntryPoint]:
    """The models of installed packages; nothing of theirs is imported."""
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


def info(name: str) -> ModelInfo:
    """The table's row for `name`.

    Raises:
        UsageError: If there is no such model; the message names the closest one.
    """
    for known in (MODELS, _REGISTERED):
        if name in known:
            return known[name]
    if name in _offered():
        point = _offered()[name]
        return ModelInfo(
            name, name, "", 1, f"from {point.module}", lambda parts: point.load()(parts)
        )
    names = list_models()
    hint = suggest(name, names) or f" Choose one of {', '.join(names)}."
    raise UsageError(f"There is no model '{name}'.{hint}")


def create(
    name: str,
    *,
    num_classes: int = 10,
    in_channels: int = 3,
    image_size: int | tuple[int, int] = (32, 32),
    num_steps: int = 2,
    precision: Precision | None = None,
    beta: float = 0.25,
    threshold: float = 0.4,
    spike_grad: Callable[[Any], Any] | None = None,
    readout: str = "current",
    init: str = "threshold",
    learn_beta: bool = False,
    learn_threshold: bool = False,
    layer_bits: Mapping[str, Bits] | None = None,
) -> nn.Module:
    """Build a network that maps images `[B, C, H, W]` or frames `[T, B, C, H, W]` to a record.

    Args:
        name: One of `list_models()`.
        num_classes: Number of classes `K`, at least 1.
        in_channels: Channels `C` of the input.
        image_size: Height and width of the input in pixels (one number: square).
        num_steps: Time steps `T`; still images are repeated `T` times.
        precision: Bit widths of weights, activations and membranes; float32 if `None`.
        beta: Decay of the membrane potential per step, in [0, 1].
        threshold: Firing threshold, positive.
        spike_grad: Surrogate gradient; `surrogate.rectangular()` if `None`.
        readout: `"current"` records the output of the last linear layer, `"rate"` the spikes of
            a neuron behind it, `"population"` the mean spikes of 10 neurons per class (Wu 2019).
        init: Initial weights of layers without tdBN: `"threshold"`, in units of the threshold, so
            that no layer falls silent; or `"torch"`, torch's default.
        learn_beta: Learn the decay of each layer, from `beta` on.
        learn_threshold: Learn the threshold of each layer, from `threshold` on.
        layer_bits: Bits of weights of single layers, by name or shell pattern, in place of those
            of `precision`; see `mixed.assign_bits`.

    Returns:
        A module whose output is the record `[T, B, K]`.

    Raises:
        UsageError: For an unknown model, readout, init or layer, or a number out of its range.
        StbpError: If a model from elsewhere cannot be built.
        TypeError: If `precision` is none, or `spike_grad` no function.
    """
    model = info(name)
    height, width = _height_and_width(image_size)
    if min(height, width) < model.min_size:
        raise UsageError(
            f"{name} needs images of at least {model.min_size}x{model.min_size} pixels, "
            f"not {height}x{width}."
        )
    _check_counts(num_classes=num_classes, in_channels=in_channels, num_steps=num_steps)
    _check_choice("readout", readout, READOUTS)
    _check_choice("init", init, INITS)
    if not (layer_bits is None or isinstance(layer_bits, Mapping)):
        raise UsageError(
            f"layer_bits has bits by name of a layer, such as {{'head.*': 8}}, not {layer_bits!r}."
        )

    from snntorch_stbp.neuron import check_constants
    from snntorch_stbp.quant import Precision, check_precision
    from snntorch_stbp.surrogate import check_spike_grad

    check_constants(beta, threshold)
    check_spike_grad(spike_grad)
    check_precision(precision)
    from .parts import Parts

    parts = Parts(
        num_classes=num_classes,
        in_channels=in_channels,
        image_size=(height, width),
        num_steps=num_steps,
        precision=Precision() if precision is None else precision,
        beta=beta,
        threshold=threshold,
        spike_grad=spike_grad,
        readout=readout,
        init=init,
        learn_beta=learn_beta,
        learn_threshold=learn_threshold,
    )
    if model.builder is not None:
        net = _built(model, parts)
    else:
        net = import_module(f".{model.family}", __package__).build(name, parts)
    if layer_bits:
        parts.assign_bits(net, layer_bits)
    return net


def _built(model: ModelInfo, parts: Parts) -> nn.Module:
    """What the builder of a model from elsewhere makes."""
    from torch import nn

    assert model.builder is not None
    try:
        net = model.builder(parts)
    except StbpError:
        raise
    except Exception as error:  # whatever other people's code raises
        what = f"{type(error).__name__}: {error}"
        raise StbpError(f"the model '{model.name}' cannot be built: {what}") from error
    if not isinstance(net, nn.Module):
        raise StbpError(
            f"the builder of the model '{model.name}' returned a {type(net).__name__}, no module."
        )
    return net


def _height_and_width(image_size: Any) -> tuple[int, int]:
    size = (image_size, image_size) if _is_whole(image_size) else image_size
    if not (isinstance(size, Sequence) and len(size) == 2 and all(map(_is_whole, size))):
        raise UsageError(
            f"image_size is a whole number of pixels, or a height and a width, not {image_size!r}."
        )
    return size[0], size[1]


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _check_counts(**counts: int) -> None:
    for name, value in counts.items():
        if not _is_whole(value):
            raise UsageError(f"{name} is a whole number, not {value!r}.")
        if value < 1:
            raise UsageError(f"{name} must be at least 1, not {value}.")


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise UsageError(f"There is no {name} '{value}': choose one of {', '.join(choices)}.")
