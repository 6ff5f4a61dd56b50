"""The training step of STBP-train-and-compression's own ResNet-18, from a copy of that project."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn


def step_of_seed(folder: Path, steps: int, batch: int) -> Callable[[], None]:
    """One forward and backward pass at `T = steps`.

    Args:
        folder: The project (github.com/ZLkanyo009/STBP-train-and-compression), unpacked.
        steps: Time steps.
        batch: Images of 32 x 32.

    Raises:
        FileNotFoundError: If there is no such project in `folder`.
    """
    if not (folder / "models" / "ResNet.py").is_file():
        raise FileNotFoundError(f"'{folder}' holds no models/ResNet.py")
    sys.path.insert(0, str(folder.resolve()))
    try:
        layers = importlib.import_module("models.layers")
        layers.config_snn_param(SimpleNamespace(timestep=steps, Vth=0.4, tau=0.25))
        net = importlib.import_module("models.ResNet").ResNet18()
    finally:
        sys.path.pop(0)
    images, labels = torch.randn(batch, 3, 32, 32), torch.randint(10, (batch,))

    def step() -> None:
        layers.steps = steps  # its networks of all lengths share this
        net.steps = steps
        net.zero_grad()
        x = images.expand(steps, *images.shape).permute(1, 2, 3, 4, 0)  # time last
        nn.functional.cross_entropy(net(x), labels).backward()

    return step
