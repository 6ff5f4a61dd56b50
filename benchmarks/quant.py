"""Quantized layers against those of floating point, and quantizing the weights alone.

    python -m benchmarks.quant [--bits 8,4,3,2,ternary,1] [--rounds 7]

Layers: a convolution of 128 to 128 channels, 3 x 3, on 16 maps of 16 x 16, of real numbers and of
spikes (16 %, channels last), and a linear layer of 4096 to 1024 features on 16 and on 512 samples;
forward and backward. Weights: 512 x 512 x 3 x 3, forward and
backward, by Brevitas' own modules, by torch operations, and compiled. Medians in milliseconds of
candidates that run in turn in one process.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import brevitas.nn as qnn
import torch
from brevitas.core.quant import BinaryQuant, RescalingIntQuant, TernaryQuant
from torch import Tensor, nn

import snntorch_stbp as stbp
from snntorch_stbp import kernels
from snntorch_stbp.quant import Bits
from snntorch_stbp.weights import injector, weight_quantizer

from .measure import interleave, machine, table

FLOAT = "floating point"
BREVITAS = "Brevitas' modules"
CHANNELS = 512


def layers(bits: Bits) -> dict[str, tuple[nn.Module, Tensor]]:
    """The layers at `bits`, and an input of each."""
    precision = stbp.Precision(weight_bits=bits)
    images, features = torch.randn(16, 128, 16, 16), torch.randn(512, 4096)
    lying = images.to(memory_format=torch.channels_last)
    return {
        "convolution": (precision.conv2d(128, 128, 3, padding=1), images),
        "of spikes": (precision.conv2d(128, 128, 3, padding=1), (lying > 1).float()),
        "linear": (precision.linear(4096, 1024), features[:16]),
        "of 512 samples": (precision.linear(4096, 1024), features),
        "of their spikes": (precision.linear(4096, 1024), (features > 1).float()),
    }


def through(layer: nn.Module, x: Tensor) -> Callable[[], None]:
    """A forward and a backward pass."""
    x = x.clone().requires_grad_()
    gradient = torch.randn_like(layer(x))

    def run() -> None:
        layer.zero_grad()
        layer(x).backward(gradient)

    return run


def weights_alone(
    bits: Bits, weight_range: str, own: bool, backend: str = "fused"
) -> Callable[[], None]:
    """The same of nothing but the quantizer of a convolution's weights."""
    quantizer = weight_quantizer(bits, True, "float", weight_range)
    if not own:
        plain = {1: BinaryQuant, "ternary": TernaryQuant}.get(bits, RescalingIntQuant)
        quantizer = injector("Plain", quantizer, tensor_quant=plain)
    layer = qnn.QuantConv2d(CHANNELS, CHANNELS, 3, bias=False, weight_quant=quantizer)
    gradient = torch.randn_like(layer.weight)

    def run() -> None:
        layer.zero_grad()
        with kernels.backend(backend):
            layer.quant_weight().value.backward(gradient)

    return run


def widths(text: str) -> list[Bits]:
    """`"4,ternary"` as `[4, "ternary"]`."""
    return [part if part == "ternary" else int(part) for part in text.split(",")]


def label(bits: Bits) -> str:
    """A width in words."""
    return str(bits) if bits == "ternary" else f"{bits} bit{'s' * (bits != 1)}"


def main() -> None:
    """Time the candidates side by side and print medians and ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bits", type=widths, default=widths("8,4,3,2,ternary,1"))
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    print(f"Quantized layers, forward and backward; {machine()}\n")
    names = {FLOAT: None, **{label(bits): bits for bits in options.bits}}
    built = {name: layers(bits) for name, bits in names.items()}
    columns = {
        kind: interleave(
            {name: through(*of_name[kind]) for name, of_name in built.items()}, options.rounds
        )
        for kind in built[FLOAT]
    }
    print(table(columns, FLOAT, 1e3))
    kinds = [(bits, "fitted") for bits in options.bits]
    kinds += [(bits, "learned") for bits in options.bits if bits == 2]  # the default in fine-tuning
    alone = {
        label(bits) + (", learned range" if kind == "learned" else ""): interleave(
            {
                BREVITAS: weights_alone(bits, kind, own=False),
                "torch operations": weights_alone(bits, kind, own=True),
                "compiled": weights_alone(bits, kind, own=True, backend="compiled"),
            },
            options.rounds,
        )
        for bits, kind in kinds
    }
    print(f"\nWeights alone:\n\n{table(alone, BREVITAS, 1e3)}")


if __name__ == "__main__":
    main()
