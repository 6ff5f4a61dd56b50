"""STBP training, low-bit quantization and hardware export for snnTorch.

    import snntorch_stbp as stbp

Modules over sequences `[T, B, ...]`, time first:

    Leaky                            the iterative LIF neuron, a multi-step snntorch.Leaky
    TDBatchNorm1d / 2d / 3d          threshold-dependent batch normalisation
    NeuNorm                          lateral inhibition across channels
    TimeDistributed                  any stateless layer, run once for all steps
    AvgPool2d                        torch's, faster on a CPU
    fire                             a layer and its neuron, as one operation where possible
    DirectCoding, RateCoding, LatencyCoding      still images -> sequences
    PopulationVote, readout          records -> class scores
    Precision                        bits -> Brevitas layers
    mixed                            bits layer by layer
    convert                          a network of snnTorch, or of torch, over sequences
    surrogate, losses                spike functions; losses on records
    zoo                              networks, a registry and their recipes
    freeze, lower                    a trained network in deployment arithmetic; as integers
    export, kernels                  files for hardware; how neurons are computed
    memory                           training in less memory

Names are imported when first used, so that `import snntorch_stbp` alone does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from . import (  # type: ignore[attr-defined]
        export,
        kernels,
        losses,
        memory,
        mixed,
        surrogate,
        zoo,
    )
    from .conversion import convert
    from .firing import fire
    from .frozen import freeze
    from .lowering import lower
    from .neuron import Leaky
    from .norm import NeuNorm, TDBatchNorm1d, TDBatchNorm2d, TDBatchNorm3d
    from .pooling import AvgPool2d
    from .quant import Precision
    from .time import (
        DirectCoding,
        LatencyCoding,
        PopulationVote,
        RateCoding,
        TimeDistributed,
        readout,
    )

_HOME = {
    "AvgPool2d": "pooling",
    "Leaky": "neuron",
    "NeuNorm": "norm",
    "TDBatchNorm1d": "norm",
    "TDBatchNorm2d": "norm",
    "TDBatchNorm3d": "norm",
    "Precision": "quant",
    "DirectCoding": "time",
    "LatencyCoding": "time",
    "PopulationVote": "time",
    "RateCoding": "time",
    "TimeDistributed": "time",
    "readout": "time",
    "convert": "conversion",
    "fire": "firing",
    "freeze": "frozen",
    "lower": "lowering",
    "export": "",
    "kernels": "",
    "losses": "",
    "memory": "",
    "mixed": "",
    "surrogate": "",
    "zoo": "",
}

__all__ = [
    "AvgPool2d",
    "DirectCoding",
    "LatencyCoding",
    "Leaky",
    "NeuNorm",
    "PopulationVote",
    "Precision",
    "RateCoding",
    "TDBatchNorm1d",
    "TDBatchNorm2d",
    "TDBatchNorm3d",
    "TimeDistributed",
    "convert",
    "export",
    "fire",
    "freeze",
    "kernels",
    "losses",
    "lower",
    "memory",
    "mixed",
    "readout",
    "surrogate",
    "zoo",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOME[name]
    if not home:
        return importlib.import_module(f".{name}", __name__)
    value = getattr(importlib.import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
