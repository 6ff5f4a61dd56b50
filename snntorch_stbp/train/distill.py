"""Distillation: a network learns from the scores of others that are trained already."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import StbpError, UsageError
from ..time import readout
from .build import build_model
from .config import RunConfig
from .data import DataBundle
from .run import checkpoint
from .run.rundir import RunDir


def divergence(scores: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence of softened class probabilities, times `temperature` squared.

    G. Hinton et al., "Distilling the knowledge in a neural network", arXiv:1503.02531, section 2:
    the factor keeps the size of the gradient. Of several teachers the probabilities are averaged,
    as there in section 3.

    Args:
        scores: Of the network that learns, `[B, classes]`.
        wanted: Of the teachers, `[teachers, B, classes]`.
        temperature: Positive; 1 leaves probabilities as they are.

    Returns:
        The mean over the batch, 0 where the probabilities are equal.
    """
    ours, theirs = (F.log_softmax(s / temperature, dim=-1) for s in (scores, wanted))
    theirs = theirs.logsumexp(0) - math.log(len(theirs))
    return F.kl_div(ours, theirs, reduction="batchmean", log_target=True) * temperature**2


class Teachers:
    """The networks of one or more runs, in evaluation mode, with their own time steps and bits.

    Args:
        config: The run that learns: `teacher`, `distill_weight` and `temperature`.
        bundle: The data it learns from.
        device: Where it is trained.

    Raises:
        UsageError: If there is no such run, it never finished an epoch, or its network is one of
            other classes or images.
    """

    def __init__(self, config: RunConfig, bundle: DataBundle, device: torch.device) -> None:
        self.weight, self.temperature = config.distill_weight, config.temperature
        self.half = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(config.precision)
        self.models = [_load(path, bundle) for path in config.teacher]
        for model in self.models:
            model.eval().requires_grad_(False).to(device)
            if device.type != "mps":
                model.to(memory_format=torch.channels_last)

    def blend(self, loss: Tensor, record: Tensor, x: Tensor) -> Tensor:
        """The loss of the labels with the share `distill_weight` of the teachers' in its place.

        Args:
            loss: That of the labels.
            record: Of the network that learns, `[T, B, classes]`.
            x: The batch it saw, images `[B, C, H, W]` or frames `[T, B, C, H, W]`.
        """
        autocast = torch.autocast(x.device.type, self.half, enabled=self.half is not None)
        with torch.no_grad(), autocast:
            wanted = torch.stack([readout(model(x)).float() for model in self.models])
        taught = divergence(readout(record), wanted, self.temperature)
        return (1 - self.weight) * loss + self.weight * taught


def _load(path: str, bundle: DataBundle) -> nn.Module:
    try:
        run = RunDir.open(path)
        state = checkpoint.load(run.path / "best.pt", run.config.model)
    except StbpError as error:
        raise UsageError(f"--teacher '{path}' cannot be used: {error}") from error
    if state["classes"] != list(bundle.classes):
        pairs = zip(state["classes"], bundle.classes, strict=False)
        names = next((pair for pair in pairs if pair[0] != pair[1]), None)
        raise UsageError(
            f"--teacher '{path}' knows other classes ({len(state['classes'])} of "
            f"'{run.config.dataset}') than the data set ({len(bundle.classes)}"
            + (f"; '{names[0]}' where it has '{names[1]}'" if names else "")
            + "): name a run on the same classes."
        )
    try:
        model = build_model(run.config, bundle)
        model.load_state_dict(state["model"])
    except (*checkpoint.MISFITS, UsageError) as error:
        raise UsageError(
            f"--teacher '{path}' was trained on images of another size or number of channels than "
            f"{bundle.channels}x{bundle.image_size[0]}x{bundle.image_size[1]}: name a run on the "
            f"same images."
        ) from error
    return model
