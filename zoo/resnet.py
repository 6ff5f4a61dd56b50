"""Residual networks with tdBN (H. Zheng et al., AAAI 2021, arXiv:2011.05280).

The two branches of a block are added before one neuron, so the tdBN at the end of each has
`alpha = 1 / sqrt(2)`; a shortcut without convolution passes spikes on unchanged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from snntorch_stbp.firing import fire
from snntorch_stbp.memory import run

from .parts import Parts, output_size

BRANCH_ALPHA = 1 / math.sqrt(2)


@dataclass(frozen=True)
class Layout:
    """A network as data.

    Args:
        stem: Channels, kernel size and stride of the first convolution.
        stages: Channels, number of blocks and stride of each stage.
        hidden: Features of the linear layer before the last, or `None` for no such layer.
    """

    stem: tuple[int, int, int]
    stages: tuple[tuple[int, int, int], ...]
    hidden: int | None = 256


LAYOUTS = {
    # ResNet18 of STBP-train-and-compression: Zheng's ResNet-19 with a narrower stem.
    "resnet18": Layout((64, 3, 1), ((128, 3, 1), (256, 3, 2), (512, 2, 2))),
    "resnet19": Layout((128, 3, 1), ((128, 3, 1), (256, 3, 2), (512, 2, 2))),
    # He 2016's ResNet-34, except that its max pooling became the stride of the first stage:
    # pooled values would be neither spikes for a shortcut nor the current of a neuron.
    "resnet34": Layout((64, 7, 2), ((64, 3, 2), (128, 4, 2), (256, 6, 2), (512, 3, 2)), None),
}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, added before the second neuron."""

    def __init__(self, parts: Parts, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = parts.conv(in_channels, channels, 3, stride, padding=1)
        self.lif1 = parts.neuron()
        self.conv2 = parts.conv(channels, channels, 3, padding=1, alpha=BRANCH_ALPHA)
        self.shortcut = (
            nn.Identity()
            if (in_channels, stride) == (channels, 1)
            else parts.conv(in_channels, channels, 1, stride, alpha=BRANCH_ALPHA)
        )
        self.lif2 = parts.neuron()

    def forward(self, x: Tensor) -> Tensor:
        """Spikes `[T, B, C, H, W]` -> spikes `[T, B, channels, H / stride, W / stride]`."""
        y = fire(self.conv1, self.lif1, x)
        return fire(self.conv2, self.lif2, y, added=self.shortcut(x))


class ResNet(nn.Module):
    """Stem, stages of basic blocks, global average pooling, one or two linear layers."""

    def __init__(self, parts: Parts, layout: Layout) -> None:
        super().__init__()
        channels, kernel_size, stride = layout.stem
        padding = kernel_size // 2
        self.encoder = parts.encoder()
        self.conv1 = parts.conv(
            parts.in_channels, channels, kernel_size, stride, padding, boundary=True
        )
        self.lif1 = parts.neuron()
        size = output_size(parts.image_size, kernel_size, stride, padding)

        self.stages = nn.Sequential()
        for width, blocks, stride in layout.stages:
            stage = nn.Sequential(BasicBlock(parts, channels, width, stride))
            for _ in range(1, blocks):
                stage.append(BasicBlock(parts, width, width, 1))
            self.stages.append(stage)
            channels, size = width, output_size(size, 3, stride, 1)

        self.pool = nn.Sequential(
            parts.avg_pool(size), parts.precision.pool_quant(size[0] * size[1]), parts.flatten()
        )
        self.hidden = nn.Sequential()
        if layout.hidden is not None:
            self.hidden.extend([parts.linear(channels, layout.hidden), parts.neuron()])
        self.head = parts.head(layout.hidden or channels)

    def forward(self, x: Tensor) -> Tensor:
        """Images `[B, C, H, W]` or frames `[T, B, C, H, W]` -> record `[T, B, classes]`."""
        blocks = [[block] for stage in self.stages.children() for block in stage.children()]
        x = run([[self.conv1, self.lif1], *blocks], self.encoder(x))
        x = self.pool(x)
        record: Tensor = self.head(self.hidden(x))
        return record


def build(name: str, parts: Parts) -> ResNet:
    """The network `name` of `LAYOUTS`."""
    return ResNet(parts, LAYOUTS[name])
