r"""The iterative leaky integrate-and-fire neuron over whole sequences.

    u[t] = beta * (u[t-1] after reset) + x[t]        o[t] = 1 if u[t] > threshold else 0

with `u[-1] = 0`. After a spike the membrane potential is reset before it leaks: "zero" keeps
`u (1 - o)`, "subtract" keeps `u - threshold * o`, "none" keeps `u`. A delayed reset by subtraction
takes the threshold off what has leaked. The gradient runs through time and through the reset
(Y. Wu et al., "Direct training for spiking neural networks: faster, larger, better", AAAI 2019,
equations 3 and 4).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from numbers import Real
from typing import Any, Literal

import snntorch as snn
import torch
from snntorch import SpikingNeuron
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from . import kernels
from .errors import UsageError
from .looking import Ones, number, recorded
from .surrogate import Surrogate, check_spike_grad, equivalent, rectangular

SpikeHook = Callable[["Leaky", Tensor], None]

watchers: list[Callable[[Tensor], None]] = []
"""What is told of all spikes that can be nothing but 0 and 1."""


class Leaky(snn.Leaky):
    """A multi-step `snntorch.Leaky`: spikes `[T, B, ...]` from input currents `[T, B, ...]`.

    It equals `snntorch.Leaky` of the same arguments stepped by hand through the sequence, in spikes
    and in gradients; only the defaults are others. What parts them is a reset without delay that
    leaves a potential above the threshold, which snnTorch counts as one of the next step, too, the
    formula does not. By subtraction that is from more than twice the threshold, and wherever the
    threshold is negative; to zero, wherever it is negative. The gradients of spikes that are equal
    may be others there, too.

    No state survives a call, and the neuron does not stay in `SpikingNeuron.instances`, so that
    networks that are dropped are freed.

    Half-precision input is integrated in float32; spikes come back in the type of the input.

    Args:
        beta: Decay of the membrane potential per step, clamped to [0, 1]. A number, a 1-D tensor
            with one value per channel, or any tensor that broadcasts against one step `[B, ...]`.
        threshold: Membrane potential above which (strictly) a neuron spikes; shapes as `beta`.
        spike_grad: Spike function with a surrogate gradient; `surrogate.rectangular()` if `None`.
            snnTorch's `fast_sigmoid` and `atan` become those of `surrogate`, which have kernels.
        learn_beta: Make `beta` a parameter.
        learn_threshold: Make `threshold` a parameter.
        reset_mechanism: `"zero"`, `"subtract"` or `"none"`.
        reset_delay: Reset in the step after the spike, as snnTorch does by default. Reset by
            subtraction then takes the threshold off the potential after its leak,
            `u[t] = beta * u[t-1] + x[t] - threshold * o[t-1]`; no other reset is changed by it.
        detach_reset: Keep the gradient out of the reset path; if `None`, where `reset_delay` is
            set, as in snnTorch.
        state_quant: Quantizer of the membrane potential, applied at every step before the
            comparison with the threshold (snnTorch's name; a module or any callable).
        current_quant: Quantizer of the input current, applied once to the whole sequence.
        output: Return `(spikes, membrane)`, the membrane potential `u[t]` before reset. (snnTorch,
            with `reset_delay=False`, returns the potential after the reset; so does `convert`.)
        surrogate_disable, graded_spikes_factor, learn_graded_spikes_factor: As in snnTorch.

    Shapes:
        input `[T, B, ...]`; output `[T, B, ...]`, or a pair of them with `output=True`. The
        channel dimension, for per-channel values, is the third: `[T, B, C, ...]`.

    Raises:
        ValueError: For an unknown `reset_mechanism`, a `beta` or `threshold` that is NaN, or an
            input without time and batch dimensions or with no time step.
        TypeError: If `spike_grad` is no function.
    """

    def __init__(
        self,
        beta: float | Tensor = 0.25,
        threshold: float | Tensor = 0.4,
        spike_grad: Callable[[Tensor], Tensor] | None = None,
        surrogate_disable: bool = False,
        *,
        learn_beta: bool = False,
        learn_threshold: bool = False,
        reset_mechanism: str = "zero",
        reset_delay: bool = False,
        detach_reset: bool | None = None,
        state_quant: Callable[[Tensor], Tensor] | Literal[False] | None = None,
        current_quant: Callable[[Tensor], Tensor] | None = None,
        output: bool = False,
        graded_spikes_factor: float | Tensor = 1.0,
        learn_graded_spikes_factor: bool = False,
    ) -> None:
        for name, value in (("beta", beta), ("threshold", threshold)):
            if _is_nan(value):
                raise ValueError(f"{name} of neurons is a number, not nan")
        check_spike_grad(spike_grad)
        try:
            super().__init__(
                beta=beta,
                threshold=threshold,
                spike_grad=rectangular() if spike_grad is None else equivalent(spike_grad),
                surrogate_disable=surrogate_disable,
                learn_beta=learn_beta,
                learn_threshold=learn_threshold,
                reset_mechanism=reset_mechanism,
                output=output,
                graded_spikes_factor=graded_spikes_factor,
                learn_graded_spikes_factor=learn_graded_spikes_factor,
                reset_delay=reset_delay,
            )
        finally:
            # snnTorch's list would keep every neuron ever made; ours have no state to reset.
            SpikingNeuron.instances.remove(self)
        self._spike_hooks: OrderedDict[int, SpikeHook] = OrderedDict()
        self._ones = Ones()
        self.detach_reset = reset_delay if detach_reset is None else detach_reset
        self.state_quant = state_quant or None
        self.current_quant = current_quant

    def forward(self, input_: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Integrate the sequence `input_` and return its spikes (and membrane potentials)."""
        if input_.dim() < 2 or input_.shape[0] == 0:
            raise ValueError(
                f"Leaky takes a sequence [T, B, ...] of at least one step, not the shape "
                f"{tuple(input_.shape)}"
            )
        x = input_ if self.current_quant is None else self.current_quant(input_)
        beta, threshold = (self._per_step(value, x) for value in self.values(_exact(x.dtype)))
        if self.state_quant is None and kernels.covers(x, beta, threshold, self.spike_grad):
            rule = kernels.Rule(self.spike_grad, self.reset_rule, self.detach_reset)
            record, potential = kernels.integrate(x, beta, threshold, rule, self.output)
        else:
            record, potential = self._loop(x.to(beta.dtype), beta, threshold)
        record = self.finished(record, input_.dtype)
        return (record, potential) if self.output else record

    def values(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Decay, within [0, 1], and threshold in the type `dtype`, in the shapes that they have."""
        beta, threshold = self.beta, self.threshold
        value = number(beta)
        if value is None or not 0 <= value <= 1:
            beta = beta.clamp(0, 1)
        return _in(beta, dtype), _in(threshold, dtype)

    def finished(self, spikes: Tensor, dtype: torch.dtype) -> Tensor:
        """`spikes` times their factor in the type `dtype`, once all who watch have seen them."""
        factor = self.graded_spikes_factor
        ones = self._ones(factor)
        spikes = _in(spikes if ones else spikes * factor, dtype)
        for hook in tuple(self._spike_hooks.values()):
            hook(self, spikes)
        if ones and isinstance(self.spike_grad, Surrogate):  # nothing but 0 and 1
            for watch in watchers:
                watch(spikes)
        return spikes

    @property
    def reset_rule(self) -> str:
        """`"zero"`, `"subtract"`, `"none"`, or `"delayed"`: by subtraction after the leak."""
        delayed = self.reset_delay and self.reset_mechanism == "subtract"
        return "delayed" if delayed else self.reset_mechanism

    def register_spike_hook(self, hook: SpikeHook) -> RemovableHandle:
        """Call `hook(neuron, spikes)` with the spikes `[T, B, ...]` of every pass from now on.

        A forward hook sees them, too, but wants the currents, which `fire` then has to write.

        Returns:
            A handle whose `remove()` ends that.
        """
        handle = RemovableHandle(self._spike_hooks)
        self._spike_hooks[handle.id] = hook
        return handle

    def _loop(self, x: Tensor, beta: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
        """Spikes and membrane potentials, step by step: what the kernels have to equal."""
        spikes, membrane = [], []
        carried: Tensor | None = None
        late = (threshold < 0).to(x.dtype)  # what a delayed reset takes off: 0 may be above already
        for current in x.unbind(0):
            u = current if carried is None else beta * carried + current
            if self.reset_rule == "delayed":
                u = u - late * threshold
            if self.state_quant is not None:
                u = self.state_quant(u)
            spike = self.spike_grad(u - threshold)
            late = spike.detach() if self.detach_reset else spike
            carried = self._reset(u, late, threshold)
            spikes.append(spike)
            membrane.append(u)
        return torch.stack(spikes), torch.stack(membrane)

    def _reset(self, u: Tensor, spike: Tensor, threshold: Tensor) -> Tensor:
        """The membrane potential that goes on to the next step."""
        if self.reset_rule == "zero":
            return u - spike * u
        if self.reset_rule == "subtract":
            return u - spike * threshold
        return u

    @staticmethod
    def _per_step(value: Tensor, x: Tensor) -> Tensor:
        """`value`; one value per channel is aligned with one step `[B, C, ...]` of `x`."""
        if value.dim() == 1 and x.dim() > 3 and value.numel() == x.shape[2]:
            return value.reshape(-1, *[1] * (x.dim() - 3))
        return value

    def extra_repr(self) -> str:
        """The values that make the neuron what it is."""

        def short(value: Tensor) -> str:
            return f"{value.item():.4g}" if value.numel() == 1 else f"{tuple(value.shape)}"

        parts = [f"beta={short(self.beta)}", f"threshold={short(self.threshold)}"]
        parts += [f"reset={self.reset_rule}", f"spike_grad={self.spike_grad}"]
        return ", ".join(parts)


def check_constants(beta: Any, threshold: Any) -> None:
    """Refuse constants of neurons that no network is to have.

    Raises:
        UsageError: If the decay lies outside of [0, 1], or the threshold is not positive.
    """
    if not (_is_number(beta) and 0 <= beta <= 1):
        raise UsageError(f"beta is a number in [0, 1], not {beta!r}.")
    if not (_is_number(threshold) and 0 < threshold < math.inf):
        raise UsageError(f"threshold is a positive, finite number, not {threshold!r}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) or (isinstance(value, Tensor) and value.numel() == 1)


def _is_nan(value: Any) -> bool:
    """Whether a number, or one of a tensor that has any, is NaN."""
    if isinstance(value, Tensor):
        return not (value.is_meta or recorded()) and bool(value.isnan().any())
    return isinstance(value, Real) and math.isnan(value)


def _in(x: Tensor, dtype: torch.dtype) -> Tensor:
    """`x.to(dtype)`, which takes its time to find that it has nothing to do."""
    return x if x.dtype == dtype else x.to(dtype)


def _exact(dtype: torch.dtype) -> torch.dtype:
    """The type in which a neuron of inputs of some type is computed."""
    return dtype if dtype == torch.float32 else torch.promote_types(dtype, torch.float32)
