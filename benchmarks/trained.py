"""A network of snnTorch, trained, then converted, frozen and lowered: what remains of its accuracy.

    python -m benchmarks.trained --data mnist.npz [--epochs 1] [--steps 10] [--seed 0]

The convolutional network of snnTorch's tutorial 6 on MNIST (`x_train, y_train, x_test, y_test` in a
file). It is trained converted, which is the same and faster, and given its weights back; snnTorch
steps it by hand through all test images.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import snntorch.functional as SF
import torch
from snntorch import utils
from torch import Tensor, nn

import snntorch_stbp as stbp
from snntorch_stbp.export import to_qonnx

from .converted import convolutional
from .measure import machine

BATCH = 500


def load(path: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images in [0, 1] and labels, to train and to test."""
    with np.load(path) as file:
        images = [torch.tensor(file[f"x_{part}"]) for part in ("train", "test")]
        labels = [torch.tensor(file[f"y_{part}"]).long() for part in ("train", "test")]
    train, test = (x.reshape(-1, 1, 28, 28).float() / 255 for x in images)
    return train, labels[0], test, labels[1]


def fit(net: nn.Module, x: Tensor, y: Tensor, epochs: int) -> None:
    """Train as tutorial 6 does: Adam, the cross-entropy of each step."""
    optimizer, loss = (
        torch.optim.Adam(net.parameters(), lr=1e-2, betas=(0.9, 0.999)),
        SF.ce_rate_loss(),
    )
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(128):
            optimizer.zero_grad()
            loss(net(x[batch]), y[batch]).backward()
            optimizer.step()


@torch.no_grad()
def counts(network: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Output spikes of each class, summed over time."""
    return torch.cat([network(part).sum(0) for part in x.split(BATCH)])


def main() -> None:
    """Print an accuracy per line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(machine())
    x, y, images, labels = load(arguments.data)
    torch.manual_seed(arguments.seed)
    model = convolutional()
    net = stbp.convert(model, x[:32], num_steps=arguments.steps)
    fit(net, x, y, arguments.epochs)
    weights = {key.replace(".layer", ""): value for key, value in net.state_dict().items()}
    model.load_state_dict(weights, strict=False)
    model.eval()

    def by_hand(x: Tensor) -> Tensor:
        utils.reset(model)
        return torch.stack([model(x) for _ in range(arguments.steps)])

    converted = stbp.convert(model, images[:32], num_steps=arguments.steps)
    quantized = stbp.convert(
        model, images[:32], num_steps=arguments.steps, precision=stbp.Precision(4)
    )
    candidates = {
        "snnTorch, stepped by hand": by_hand,
        "converted": converted,
        "deployment arithmetic": stbp.freeze(converted),
        "integers": stbp.lower(converted, form="simple", samples=x[:200]),
        "4 bits, without training": quantized,
    }
    scores = {name: counts(network, images) for name, network in candidates.items()}
    for name, score in scores.items():
        print(f"{name:26} {(score.argmax(1) == labels).float().mean():.2%}")
    first, second, *_ = scores.values()
    print(f"{int((first != second).any(1).sum())} of {len(images)} records differ, converted")
    with TemporaryDirectory() as folder:
        exported = to_qonnx(converted, images[:50], Path(folder) / "net.onnx", vectors=1)
        print(f"{exported.onnxruntime.spikes} spikes of 50 images equal in onnxruntime")


if __name__ == "__main__":
    main()
