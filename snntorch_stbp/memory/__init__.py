"""Training in less memory: what autograd keeps for the backward pass, and what it computes again.

    with memory.saving():          # spikes are kept as bits
        loss = criterion(net(images), labels)
    loss.backward()                # the same gradients, bit for bit

    with memory.checkpointing():   # networks of the zoo keep what enters each of their blocks only
        record = net(images)

Module by module, a layer of a spiking network keeps three tensors of its size: the input of the
normalisation; its output, the current from which the neuron computes its membrane potential again
(not where `fire` makes one operation of both); and the spikes, which the next convolution needs.
`recomputing` does without the second, and normalises once more in the backward pass. `saving` also
keeps a spike as the bit that it is, and computes small convolutions again. Neither reaches into
networks that `torch.compile` has compiled.

    pages = memory.KeptPages()     # the other way round: a CPU keeps what it frees, and is faster
    pages.settle()                 # after each epoch, so that this never grows without bound
"""

from .blocks import by_neuron, checkpointing, run
from .keeper import recomputing, saving
from .pages import KeptPages, keep_pages

__all__ = ["KeptPages", "by_neuron", "checkpointing", "keep_pages", "recomputing", "run", "saving"]
