"""A network's forward and backward pass as CUDA graphs, so that the GPU need not wait for the CPU.

A training step of a spiking network starts some 1,700 kernels, with quantized weights 2,800, and
most take a GPU less time than the CPU needs to start them. A graph starts all of them at once.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .config import RunConfig

TYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def can_capture(config: RunConfig, device: torch.device, processes: int) -> bool:
    """Whether a run can train through graphs: what its network does may not depend on data.

    Quantizers of activations collect statistics for some steps and then stop; memory is saved, and
    rates are counted, by looking at each layer's output.
    """
    rates = config.spike_rate_target is not None
    looks = config.save_memory or config.checkpoint_activations or rates
    changes = config.act_bits or config.membrane_bits
    other_net = config.compile or config.frozen_aware or config.fixed_point_aware
    one_gpu = device.type == "cuda" and processes == 1
    return one_gpu and config.cuda_graphs and not (looks or changes or other_net)


def capture(net: nn.Module, x: Tensor, precision: str) -> str | None:
    """Let `net` run as graphs when it trains, on batches like `x`; in evaluation nothing changes.

    Its parameters and buffers have to stay the tensors they are. Gradients of parameters are new
    tensors in every step. Trying it out changes neither running statistics nor random numbers.

    Args:
        net: On a CUDA device, without hooks.
        x: A batch.
        precision: As in `RunConfig`.

    Returns:
        `None`; or what went wrong, in which case `net` goes on as before.
    """
    before = {key: value.clone() for key, value in net.state_dict().items()}
    training, plain = net.training, net.forward
    drawn = torch.cuda.get_rng_state(x.device) if x.is_cuda else None
    dtype = TYPES.get(precision)

    def forward(*inputs: Tensor) -> Tensor:
        # Around the whole capture it would hold for the backward pass, too, which training does
        # without it (https://github.com/pytorch/pytorch/issues/120930).
        with torch.autocast(x.device.type, dtype, enabled=dtype is not None, cache_enabled=False):
            record: Tensor = plain(*inputs)
        return record

    net.forward = forward
    try:
        # Three passes to warm up, in which kernels are compiled and chosen.
        torch.cuda.make_graphed_callables(net.train(), (x.clone(),), allow_unused_input=True)
    except Exception as error:  # whatever a driver or an operation raises
        del net.forward  # the class has it
        return f"{type(error).__name__}: {error}"
    finally:
        net.train(training)
        if drawn is not None:
            torch.cuda.set_rng_state(drawn, x.device)
        with torch.no_grad():
            for key, value in net.state_dict().items():
                value.copy_(before[key])
    graphs = net.forward
    net.forward = lambda *inputs: (graphs if net.training else plain)(*inputs)
    return None
