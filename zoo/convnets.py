"""Small convolutional networks: a neuron behind every convolution, pooling and linear layer.

`mnistnet` and `cifarnet` are those of STBP-train-and-compression, after Wu 2018 and Wu 2019
(arXiv:1809.05793, CIFARNet); so is `nmnistnet`, for the 34x34 pixels and two polarities of N-MNIST.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn

from snntorch_stbp.firing import through
from snntorch_stbp.memory import by_neuron, run
from snntorch_stbp.norm import NeuNorm

from .parts import Parts, output_size

POOL = "pool"  # average pooling by 2


@dataclass(frozen=True)
class Layout:
    """A network as data.

    Args:
        features: Output channels of each convolution, or `POOL`.
        hidden: Output features of each linear layer but the last.
        kernel_size, padding, bias: Of every convolution.
        norm: tdBN behind every convolution.
        hidden_norm: tdBN behind every hidden linear layer.
        neunorm: NeuNorm of the spikes that a convolution receives.
    """

    features: tuple[int | str, ...]
    hidden: tuple[int, ...]
    kernel_size: int
    padding: int
    bias: bool = False
    norm: bool = False
    hidden_norm: bool = False
    neunorm: bool = False


MNISTNET = Layout((15, POOL, 40, POOL), (300,), kernel_size=5, padding=2)
NMNISTNET = Layout((20, POOL, 50, POOL), (500,), kernel_size=3, padding=0, bias=True)
CIFARNET = Layout((128, 256, POOL, 512, POOL, 1024, 512), (1024, 512), kernel_size=3, padding=1)

LAYOUTS = {
    "mnistnet": MNISTNET,
    "mnistnet_bn": replace(MNISTNET, norm=True, hidden_norm=True),
    "nmnistnet": NMNISTNET,
    "nmnistnet_bn": replace(NMNISTNET, bias=False, norm=True, hidden_norm=True),
    "cifarnet": replace(CIFARNET, norm=True),
    "cifarnet_neunorm": replace(CIFARNET, neunorm=True),
}


class ConvNet(nn.Module):
    """Convolutions, poolings and linear layers in a row."""

    def __init__(self, parts: Parts, layout: Layout) -> None:
        super().__init__()
        self.encoder = parts.encoder()

        self.features = nn.Sequential()
        channels, size = parts.in_channels, parts.image_size
        for index, item in enumerate(layout.features):
            if isinstance(item, str):
                self.features.append(parts.avg_pool(2))
                size = output_size(size, kernel_size=2, stride=2)
            else:
                if layout.neunorm and index > 0:
                    self.features.append(NeuNorm(channels, size))
                conv = parts.conv(
                    channels,
                    item,
                    layout.kernel_size,
                    padding=layout.padding,
                    bias=layout.bias,
                    norm=layout.norm,
                    boundary=index == 0,
                )
                self.features.append(conv)
                channels, size = item, output_size(size, layout.kernel_size, 1, layout.padding)
            self.features.append(parts.neuron())

        self.hidden = nn.Sequential(parts.flatten())
        features = channels * size[0] * size[1]
        for width in layout.hidden:
            self.hidden.append(parts.linear(features, width, norm=layout.hidden_norm))
            self.hidden.append(parts.neuron())
            features = width
        self.head = parts.head(features)

    def forward(self, x: Tensor) -> Tensor:
        """Images `[B, C, H, W]` or frames `[T, B, C, H, W]` -> record `[T, B, classes]`."""
        x = run(by_neuron(self.features), self.encoder(x))
        record: Tensor = self.head(through(self.hidden, x))
        return record


def build(name: str, parts: Parts) -> ConvNet:
    """The network `name` of `LAYOUTS`."""
    return ConvNet(parts, LAYOUTS[name])
