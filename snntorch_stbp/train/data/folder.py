"""`folder:PATH`: images in `train/CLASS/` and `test/CLASS/`, decoded once into memory."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...errors import StbpError
from ...files import UNREADABLE
from .arrays import ArrayDataset, Parts

_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "PPM", "TIFF")  # of the others one starts programs
_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}

# Decoded folders, kept for as long as a data set uses them: a second load finds them here.
_decoded: WeakValueDictionary[str, Tensor] = WeakValueDictionary()


def load_folder(root: Path, size: tuple[int, int] | None = None, *, threads: int = 4) -> Parts:
    """Decode an image folder into memory, one byte a value.

    Classes are the sub-folders of `train`, in alphabetical order; images may lie deeper. Where all
    images are grey they get one channel, else three; transparency is dropped.

    Args:
        root: holds `train/CLASS/*` and `test/CLASS/*`.
        size: (height, width) to resize every image to; None requires that all agree.
        threads: number of threads that decode.

    Raises:
        StbpError: a part, classes or images are missing, an image cannot be read, or sizes differ.
    """
    classes = _classes(root / "train")
    if extra := sorted(set(_classes(root / "test")) - set(classes)):
        raise StbpError(
            f"{root / 'test'} has the class '{extra[0]}', which {root / 'train'} lacks; "
            f"its classes are {', '.join(classes[:10])}{', ...' if len(classes) > 10 else ''}."
        )
    files: list[Path] = []
    labels: list[int] = []
    for part in ("train", "test"):
        for label, name in enumerate(classes):
            found = _files(root / part / name)
            if not found and part == "train":
                raise StbpError(f"The class folder {root / part / name} holds no images.")
            files += found
            labels += [label] * len(found)
        if part == "train":
            count = len(files)
    if len(files) == count:
        raise StbpError(f"The class folders in {root / 'test'} hold no images.")

    key = _fingerprint(files, size)
    images = _decoded.get(key)
    if images is None:
        images = _decode(files, size, threads)
        _decoded[key] = images
    whole = ArrayDataset(images, torch.tensor(labels))
    return Parts(
        whole.subset(torch.arange(count)),
        whole.subset(torch.arange(count, len(files))),
        classes,
        f"image folder {root}",
    )


def _classes(part: Path) -> list[str]:
    if not part.is_dir():
        raise StbpError(
            f"No such folder: {part}; folder:PATH wants PATH/train/CLASS/ and PATH/test/CLASS/."
        )
    names = sorted(p.name for p in part.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not names:
        raise StbpError(f"{part} holds no classes; put the images of each into a sub-folder.")
    return names


def _files(folder: Path) -> list[Path]:
    found = folder.rglob("*") if folder.is_dir() else ()
    images = (
        p
        for p in found
        if p.suffix.lower() in _SUFFIXES
        and not any(part.startswith(".") for part in p.relative_to(folder).parts)
        and p.is_file()
    )
    return sorted(images, key=lambda p: p.parts)  # paths of Windows ignore case


def _fingerprint(files: list[Path], size: tuple[int, int] | None) -> str:
    """A digest that changes when a file is added, removed or written to."""
    digest = hashlib.sha256(repr(size).encode())
    for file in files:
        stat = file.stat()
        digest.update(os.fsencode(file.absolute()))
        digest.update(f"\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _decode(files: list[Path], size: tuple[int, int] | None, threads: int) -> Tensor:
    """Decode all files to one uint8 tensor `[N, C, H, W]`."""
    with ThreadPoolExecutor(max(1, threads)) as pool:
        arrays = list(pool.map(lambda file: _decode_one(file, size), files))
    shape = arrays[0].shape[:2]
    for file, array in zip(files, arrays, strict=True):
        if array.shape[:2] != shape:
            raise StbpError(
                f"The images differ in size: {files[0]} is {shape[0]}x{shape[1]}, {file} is "
                f"{array.shape[0]}x{array.shape[1]} (height x width); add --image-size "
                "PIXELS to resize them all."
            )
    channels = max(array.shape[2] for array in arrays)
    images = torch.empty((len(arrays), channels, *shape), dtype=torch.uint8)
    for row, array in zip(images, arrays, strict=True):
        row.copy_(torch.from_numpy(array).permute(2, 0, 1))  # one grey channel fills all three
    return images


def _decode_one(file: Path, size: tuple[int, int] | None) -> np.ndarray:
    """Decode one file to uint8 `[H, W, 1]` (grey) or `[H, W, 3]`."""
    try:
        with Image.open(file, formats=_FORMATS) as image:
            mode = image.mode
            if mode.startswith(("I", "F")):
                raise StbpError(f"{file} has more than 8 bits a pixel (mode {mode}); convert it.")
            whole = image.convert("RGBA") if "transparency" in image.info else image
            pixels = whole.convert("L" if mode in ("1", "L", "LA") else "RGB")
    except StbpError:
        raise
    except (*UNREADABLE, Image.DecompressionBombError) as error:
        raise StbpError(f"{file} cannot be read as an image ({error}).") from error
    if size is not None and pixels.size != size[::-1]:
        pixels = pixels.resize(size[::-1], Image.Resampling.BILINEAR)
    array = np.array(pixels)
    return array[:, :, None] if array.ndim == 2 else array
