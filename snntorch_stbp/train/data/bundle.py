"""From the name of a data set to its training, validation and test parts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from ...errors import UsageError
from ...files import expanded
from ..catalog import DATASETS, parse
from .arrays import ArrayDataset, Parts, Samples
from .events import load_events
from .folder import load_folder
from .npz import load_npz
from .split import hold_out
from .standard import load_digits, load_torchvision


@dataclass(frozen=True)
class DataBundle:
    """A data set, ready for training.

    Attributes:
        train, val, test: the parts; `part[i]` is a sample `(x, y)`, `part.__getitems__(list)` a
            batch.
        classes: names of the classes, in the order of the labels.
        channels, image_size: of a sample; image_size is (height, width).
        input_max: largest value a sample can hold: 1.0 for images, 255.0 for event counts.
        kind: "image" (samples `[C, H, W]`) or "event" (frames `[T, C, H, W]`).
        source: one line that says where the data came from.
        val_name: one phrase that says what `val` is.
    """

    train: Samples
    val: Samples
    test: Samples
    classes: list[str]
    channels: int
    image_size: tuple[int, int]
    input_max: float
    kind: Literal["image", "event"]
    source: str
    val_name: str

    @property
    def class_sizes(self) -> list[int]:
        """Samples of each class that are trained on or held out, in the order of the labels."""
        labels = torch.cat([self.train.labels.cpu(), self.val.labels.cpu()])
        return labels.bincount(minlength=len(self.classes)).tolist()

    def to(self, device: torch.device) -> DataBundle:
        """The same data with images that are kept in memory on `device`.

        Parts that share their images go on sharing them; other parts stay where they are.
        """
        moved: dict[int, ArrayDataset] = {}

        def move(part: Samples) -> Samples:
            if not isinstance(part, ArrayDataset):
                return part
            if id(part.images) not in moved:
                moved[id(part.images)] = part.to(device)
            whole = moved[id(part.images)]
            return part.sharing(whole.images, part.index)

        return replace(self, train=move(self.train), val=move(self.val), test=move(self.test))

    def kept_on(self, device: torch.device) -> DataBundle:
        """The same data `to` a GPU, if images take a quarter of its free memory at most."""
        if device.type != "cuda":
            return self
        parts = (self.train, self.val, self.test)
        kept = {id(p.images): p.images.nbytes for p in parts if isinstance(p, ArrayDataset)}
        fits = sum(kept.values()) <= torch.cuda.mem_get_info(device)[0] // 4
        return self.to(device) if fits else self


def load(
    spec: str,
    *,
    data_dir: str | Path,
    download: bool = False,
    num_steps: int = 2,
    image_size: int | tuple[int, int] | None = None,
    val_fraction: float = 0.1,
    seed: int = 0,
    validate_on_test: bool = False,
) -> DataBundle:
    """Load a data set and hold out a validation part.

    Images are float32 pixel / 255 with no further standardisation, so that hardware can be fed
    the raw pixels.

    Args:
        spec: a name of `catalog.DATASETS`, with `:PATH` for "npz" and "folder".
        data_dir: where the standard sets are looked for, and downloaded to.
        download: fetch what is missing; nothing is ever fetched without it.
        num_steps: time bins of event frames, and frames of a sample in an archive; images do not
            depend on it.
        image_size: resize to this side, or (height, width); None keeps the size.
        val_fraction: share of the training part held out for validation, class by class.
        seed: decides which samples are held out. The test part never depends on it.
        validate_on_test: hold nothing out and take the test part for validation.

    Raises:
        UsageError: unknown data set, or an option out of range.
        StbpError: the data are missing, damaged or malformed; the message says what would help.
    """
    name, path = parse(spec)
    kind = DATASETS[name].kind
    root = expanded(data_dir)
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    if size is not None and min(size) < 1:
        raise UsageError(f"The image size must be at least 1 pixel, not {image_size}.")

    parts: Parts
    if kind == "event":
        parts = load_events(name, root, num_steps=num_steps, size=size, download=download)
    elif name == "folder":
        parts = load_folder(expanded(str(path)), size)
    elif name == "npz":
        parts = load_npz(expanded(str(path)), num_steps)
    elif name == "digits":
        parts = load_digits()
    else:
        parts = load_torchvision(name, root, download=download)
    if size is not None:
        parts = _resized(parts, size)

    train, val, val_name = parts.train, parts.test, "test set"
    if not validate_on_test:
        kept, held = hold_out(train.labels, val_fraction, seed)
        train, val = train.subset(kept), train.subset(held)
        val_name = f"held-out {100 * val_fraction:g} % of train"
    shape = train[0][0].shape
    return DataBundle(
        train=train,
        val=val,
        test=parts.test,
        classes=parts.classes,
        channels=shape[-3],
        image_size=(shape[-2], shape[-1]),
        input_max=parts.input_max,
        kind="image" if len(shape) == 3 else "event",
        source=parts.source,
        val_name=val_name,
    )


def _resized(parts: Parts, size: tuple[int, int]) -> Parts:
    """Resize the parts that keep images in memory; digits share theirs, which are resized once."""
    train, test = parts.train, parts.test
    if isinstance(train, ArrayDataset) and isinstance(test, ArrayDataset):
        shared = train.images is test.images
        train = train.resized(size)
        test = test.sharing(train.images, test.index) if shared else test.resized(size)
    return replace(parts, train=train, test=test)
