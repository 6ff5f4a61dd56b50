"""Training in the arithmetic of the fixed-point network, so that lowering loses nothing."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import Tensor, nn

from ..neuron import Leaky
from .net import lower


class FixedPointAware(nn.Module):
    """A network whose spikes and record are those of its fixed-point network.

    Every forward pass lowers the parameters as they are now and runs the integers; the network
    itself runs beside them, in evaluation mode (normalisation with its running statistics), with
    the integers' spikes in place of its own, and gives the gradients: straight through every
    rounding, by the surrogate at every threshold.

    Args:
        model: The network to train; its parameters are this module's.
        **options: As for `lower`.
    """

    def __init__(self, model: nn.Module, **options: Any) -> None:
        super().__init__()
        self.model, self.options = model.eval(), options
        lower(model, **options)  # refuses here what cannot be lowered

    def forward(self, x: Tensor) -> Tensor:
        """The record `[T, B, classes]` of images `[B, C, H, W]` or frames `[T, B, C, H, W]`."""
        spikes: dict[str, Tensor] = {}
        fixed = lower(self.model, **self.options).to(x.device)
        wanted = fixed(x, spikes)
        calls: Counter[str] = Counter()

        def replace(name: str) -> Any:
            def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
                calls[name] += 1
                key = name if calls[name] == 1 else f"{name}#{calls[name]}"
                return output + (spikes[key].to(output.dtype) - output).detach()

            return hook

        neurons = [(n, m) for n, m in self.model.named_modules() if isinstance(m, Leaky)]
        handles = [m.register_forward_hook(replace(n), prepend=True) for n, m in neurons]
        try:
            record: Tensor = self.model(x)
        finally:
            for handle in handles:
                handle.remove()
        return record + (wanted - record).detach()

    def train(self, mode: bool = True) -> FixedPointAware:
        """Keep the network in evaluation mode: its normalisation is folded, not estimated."""
        super().train(mode)
        self.model.eval()
        return self
