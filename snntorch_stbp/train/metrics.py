"""What is measured while training: running means, spike rates, curves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..files import atomic_write
from ..frozen.neuron import Integrate
from ..lowering.neurons import IntegerNeurons
from ..neuron import Leaky


class Means:
    """Sums of loss and correct predictions over samples, kept on the device in float64."""

    def __init__(self, device: torch.device, sums: list[float] | None = None) -> None:
        kind = torch.float32 if device.type == "mps" else torch.float64
        self.sums = torch.tensor(sums or [0.0, 0.0, 0.0], dtype=kind, device=device)

    def update(self, loss: Tensor, scores: Tensor, target: Tensor) -> None:
        """Add a batch: its mean loss, its scores `[B, classes]` and targets `[B]`."""
        correct = (scores.argmax(1) == target).sum()
        self.sums[0] += loss.detach() * len(target)
        self.sums[1] += correct
        self.sums[2] += len(target)

    def read(self) -> tuple[float, float, int]:
        """Mean loss, accuracy in [0, 1] and number of samples so far."""
        loss, correct, count = self.sums.tolist()
        return loss / max(count, 1), correct / max(count, 1), int(count)


@contextmanager
def watched(
    layers: Iterable[nn.Module], note: Callable[[nn.Module, Tensor], None], compiled: bool = False
) -> Iterator[None]:
    """While active, `note` is told each of `layers`, neurons of any kind, and its spikes.

    `torch.compile` follows forward hooks; other networks are faster without (see `fire`).
    """

    def see(layer: nn.Module, inputs: Any, output: Any) -> None:
        note(layer, output[0] if isinstance(output, tuple) else output)

    handles = [
        layer.register_spike_hook(note)
        if isinstance(layer, Leaky) and not compiled
        else layer.register_forward_hook(see)
        for layer in layers
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def spike_counter(model: nn.Module, compiled: bool = False) -> Iterator[list[Tensor]]:
    """While active, collects `[spikes, neurons x steps x samples]` of every layer of neurons.

    These are the `Leaky` of a network, or the layers of a frozen or fixed-point network.
    """
    totals: list[Tensor] = []

    def count(_: nn.Module, spikes: Tensor) -> None:
        fired = torch.count_nonzero(spikes)
        totals.append(torch.stack([fired, torch.full_like(fired, spikes.numel())]))

    layers = [m for m in model.modules() if isinstance(m, (Leaky, Integrate, IntegerNeurons))]
    with watched(layers, count, compiled):
        yield totals


@contextmanager
def spike_record(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """While active, collects the spikes of every `Leaky` of `model` by its name."""
    names: dict[nn.Module, str] = {
        module: name for name, module in model.named_modules() if isinstance(module, Leaky)
    }
    record: dict[str, Tensor] = {}

    def note(layer: nn.Module, spikes: Tensor) -> None:
        record[names[layer]] = spikes

    with watched(names, note):
        yield record


@contextmanager
def tensorboard(run: Path | None, epoch: int) -> Iterator[Any]:
    """A writer of TensorBoard events in the folder of a run, from `epoch` on; `None` for none."""
    if run is None:
        yield None
        return
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(run / "tensorboard"), purge_step=epoch)
    try:
        yield writer
    finally:
        writer.close()


def best_row(rows: list[dict[str, Any]], select: str = "best") -> dict[str, Any]:
    """The epoch whose weights count: the highest accuracy held out, then the lowest loss.

    A small held-out set has few accuracies, and many epochs share the highest. With `select="last"`
    it is the last one: where the learning rate ends at zero, a small held-out set says less.
    """
    if select == "last":
        return rows[-1]
    return max(rows, key=lambda row: (row["val_accuracy"], -row["val_loss"]))


def plot_curves(rows: list[dict[str, Any]], path: Path, title: str, select: str = "best") -> None:
    """Loss and accuracy per epoch as a PNG at `path`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    epochs = [row["epoch"] for row in rows]
    loss, accuracy = figure.subplots(1, 2)
    for part, style in (("train", "--"), ("val", "-")):
        loss.plot(epochs, [r[f"{part}_loss"] for r in rows], style, marker=".", label=part)
        percent = [100 * r[f"{part}_accuracy"] for r in rows]
        accuracy.plot(epochs, percent, style, marker=".", label=part)
    best = best_row(rows, select)
    early = best["epoch"] <= epochs[len(epochs) // 2]
    low = 100 * best["val_accuracy"] < sum(accuracy.get_ylim()) / 2
    accuracy.annotate(
        f"{select} {100 * best['val_accuracy']:.2f} %",
        (best["epoch"], 100 * best["val_accuracy"]),
        xytext=(0, 28 if low else -28),  # and to the middle, so that it stays inside the axes
        textcoords="offset points",
        ha="left" if early else "right",
        arrowprops={"arrowstyle": "->", "lw": 0.8},
    )
    loss.set_ylabel("loss")
    accuracy.set_ylabel("accuracy (%)")
    for axes in (loss, accuracy):
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
        axes.legend(loc="best")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.suptitle(title, parse_math=False)
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=120)
