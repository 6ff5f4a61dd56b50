"""From a trained network to a verified NIR file, for neuromorphic chips and simulators.

    NAME.nir            the graph, see `nir_graph`
    NAME.samples.npz    golden vectors of the trained network, see `trained`

Both files are written under other names, the graph is read back twice (see `nir_read`), run on all
samples, compared with the trained network, and only then they are given their own, the graph last:
a process that is killed between the two leaves new vectors beside the graph from before, or without
a graph. A spike may differ only where the rounding of floating point explains it, see `tolerance`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from pathlib import Path

import nir
import torch
from torch import nn

from ... import __version__
from ...errors import StbpError
from ...files import check_file, claim, write_together
from ...frozen import inputs
from .. import golden
from ..api import MOST_SAMPLES, MOST_SPIKES
from ..array import Array
from ..names import Names
from ..tolerance import verify_trained
from ..trained import TrainedNet
from ..verify import Agreement, Execute
from .graph import Built, build
from .read import plain_reader, snntorch_reader, uneven


@dataclass(frozen=True)
class ExportedNir:
    """A network exported to NIR.

    Attributes:
        path: The graph.
        files: All files that were written, the graph first.
        plain: What was compared with plain arithmetic over its nodes.
        snntorch: What was compared with snnTorch, or `None` if it cannot read the graph.
        unread: Why not, or `None`.
        nodes: Number of nodes of the graph.
    """

    path: Path
    files: tuple[Path, ...]
    plain: Agreement
    snntorch: Agreement | None
    unread: str | None
    nodes: int


def to_nir(
    model: nn.Module,
    samples: torch.Tensor,
    path: str | Path,
    *,
    metadata: dict[str, str] | None = None,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ExportedNir:
    """Export a trained network to NIR and prove on `samples` that the file computes it.

    Args:
        model: A trained network of the modules of this package, with reset to zero, leaking
            neurons, and no quantizers but those of weights and input.
        samples: Real inputs to verify with, images `[N, C, H, W]` or frames `[T, N, C, H, W]`,
            features `[N, F]` or `[T, N, F]`.
        path: Where the graph goes; its folder is made.
        metadata: Further entries of the graph's metadata.
        force: Replace files that exist.
        progress: Called with the samples verified and their number.

    Raises:
        UsageError: If files exist, or samples are none or not finite.
        StbpError: If NIR cannot say what the network does, or the file does not compute it; then
            no file is left behind.
    """
    inputs.check_samples(samples)
    path = Path(path)
    check_file(path)
    files = (path, path.with_suffix(".samples.npz"))
    claim(files, force)
    model, samples = inputs.on_cpu(model, samples)
    net = TrainedNet(model, inputs.steps(samples))
    with torch.no_grad():  # the graph takes inputs that are on the network's grid
        samples = samples if net.graph.input_quant is None else net.graph.input_quant(samples)
    one = samples.narrow(inputs.batch_axis(samples), 0, 1)
    facts = {"project": f"snntorch-stbp {__version__}", **(metadata or {})}
    graph, built = build(net, one, facts)
    vectors = net.vectors(samples)
    names = _names(built, samples, net.num_steps)

    with write_together(files, force) as (temporary, beside):
        golden.save(vectors, beside, files[1])
        _write(temporary, graph, path)
        compare = partial(verify_trained, golden=vectors, names=names, progress=progress)

        def run(reader: Execute, given: bool = False) -> Agreement:
            return compare(_votes(reader, net.votes), given=given)

        plain = partial(plain_reader, temporary, names, built.stages)
        free, given = run(plain()), run(plain(given=True), given=True)
        agreement = replace(free, margin=max(free.margin, given.margin))
        several = uneven(temporary)
        again, unread = None, None
        if several is None:
            again = run(snntorch_reader(temporary, names, built.stages))
        else:
            unread = f"the neurons of '{several}' have several thresholds"
    return ExportedNir(path, files, agreement, again, unread, len(graph.nodes))


def _names(built: Built, samples: torch.Tensor, steps: int) -> Names:
    """What the verifier must know: the layers, and how many samples are run at a time."""
    frames = inputs.in_time(samples)
    count = samples.shape[inputs.batch_axis(samples)]
    spikes = steps * sum(prod(built.shapes[node]) for node in built.stages.values())
    return Names(
        form="unrolled",
        steps=steps,
        batch=max(1, min(MOST_SAMPLES, count, MOST_SPIKES // spikes)),
        frames=frames,
        channels_last=False,
        separator="/",
        spikes={
            stage: [f"{node}/t{t}" for t in range(steps)] for stage, node in built.stages.items()
        },
    )


def _votes(execute: Execute, votes: int | None) -> Execute:
    """The same with the readout of a population vote: the spikes of each class's neurons."""
    if votes is None:
        return execute

    def count(feeds: dict[str, Array]) -> dict[str, Array]:
        result = execute(feeds)
        record = result["record"]
        return result | {"record": record.reshape(len(record), votes, -1).sum(-1)}

    return count


def _write(path: Path, graph: nir.NIRGraph, asked: Path) -> None:
    """Write the graph to `path`, which is to be `asked`."""
    try:
        nir.write(path, graph)
    except (OSError, RuntimeError) as error:  # of HDF5
        number = getattr(error, "errno", None)
        reason = os.strerror(number) if number else error  # which would name `path`
        raise StbpError(f"cannot write '{asked}': {reason}.") from error
