"""Data sets as batches, and what augments them.

Images are `[B, C, H, W]` in [0, 1], event frames `[T, B, 2, H, W]` of counts.

`load` turns the name a user gives into train, validation and test parts; `make_loader` turns a part
into batches whose order depends on the seed and the epoch alone.
"""

from .arrays import ArrayDataset, drawn, examples, upload
from .bundle import DataBundle, load
from .events import EventDataset
from .loader import make_loader, seeded_generator

__all__ = [
    "ArrayDataset",
    "DataBundle",
    "EventDataset",
    "drawn",
    "examples",
    "load",
    "make_loader",
    "seeded_generator",
    "upload",
]
