"""VGG networks (K. Simonyan and A. Zisserman, arXiv:1409.1556, configurations A, B, D and E).

As in STBP-train-and-compression: average pooling, whose output enters the next convolution
directly and a layer of neurons only at the end, and a classifier of 512-512-classes.
"""

from __future__ import annotations

from torch import Tensor, nn

from snntorch_stbp.memory import by_neuron, run

from .parts import Parts, output_size

# Convolutions in each of the five stages, and the channels of a stage.
DEPTHS = {
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
CHANNELS = (64, 128, 256, 512, 512)
HIDDEN = 512


class VGG(nn.Module):
    """Five stages of 3x3 convolutions, each ended by average pooling; three linear layers."""

    def __init__(self, parts: Parts, depths: tuple[int, ...], norm: bool) -> None:
        super().__init__()
        self.encoder = parts.encoder()

        self.features = nn.Sequential()
        channels, size = parts.in_channels, parts.image_size
        for depth, width in zip(depths, CHANNELS, strict=True):
            if len(self.features):
                self.features.append(parts.precision.pool_quant(4))
            for _ in range(depth):
                conv = parts.conv(
                    channels, width, 3, padding=1, bias=True, norm=norm,
                    boundary=not len(self.features),
                )  # fmt: skip
                self.features.extend([conv, parts.neuron()])
                channels = width
            self.features.append(parts.avg_pool(2))
            size = output_size(size, kernel_size=2, stride=2)

        self.classifier = nn.Sequential(
            parts.neuron(),
            parts.flatten(),
            parts.linear(channels * size[0] * size[1], HIDDEN),
            parts.neuron(),
            parts.linear(HIDDEN, HIDDEN),
            parts.neuron(),
        )
        self.head = parts.head(HIDDEN)

    def forward(self, x: Tensor) -> Tensor:
        """Images `[B, C, H, W]` or frames `[T, B, C, H, W]` -> record `[T, B, classes]`."""
        x = run(by_neuron(self.features), self.encoder(x))
        record: Tensor = self.head(self.classifier(x))
        return record


def build(name: str, parts: Parts) -> VGG:
    """The network `name`: a key of `DEPTHS`, with `_bn` behind it for tdBN."""
    return VGG(parts, DEPTHS[name.removesuffix("_bn")], norm=name.endswith("_bn"))
