"""`npz:FILE`: images, or frames, and labels from a numpy archive that the user wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...errors import StbpError
from ...files import UNREADABLE
from .arrays import ArrayDataset, Parts

_NAMES = ("x_train", "y_train", "x_test", "y_test")
_LAYOUTS = (
    "[N, H, W], [N, H, W, C] or [N, C, H, W] with C of 1 to 4, or, of frames, [N, T, C, H, W]"
)


def load_npz(path: Path, num_steps: int) -> Parts:
    """Read `x_train`, `y_train`, `x_test`, `y_test` from a .npz archive.

    Images are uint8, or floats in [0, 1] (stored as round(255 x)), of shape `[N, H, W]`,
    `[N, H, W, C]` or `[N, C, H, W]`. Frames, one a time step, are `[N, T, C, H, W]`: floats as
    those of images, or uint8, which are counts of events and stay what they are. Labels are
    integers `[N]` from 0 to classes - 1, each of which occurs in `y_train`. Pickled objects are
    refused.

    Args:
        path: The archive.
        num_steps: Time steps of the network, as many as there are frames.

    Raises:
        StbpError: anything else, with the array and what is wrong with it.
    """
    arrays = _read(path)
    frames, counts = _frames(path, arrays, num_steps)
    x_train, x_test = (_images(path, n, arrays[n]) for n in ("x_train", "x_test"))
    if x_train.shape[1:] != x_test.shape[1:]:
        raise StbpError(
            f"{path}: x_train holds images {list(x_train.shape[1:])} and x_test "
            f"{list(x_test.shape[1:])} ({'steps, ' * frames}channels, height, width); they must be "
            f"alike."
        )
    y_train = _labels(path, "y_train", arrays["y_train"], len(x_train))
    y_test = _labels(path, "y_test", arrays["y_test"], len(x_test))
    count = len(y_train.unique())
    if int(y_train.max()) != count - 1:
        missing = min(set(range(count)) - set(y_train.tolist()))
        raise StbpError(
            f"{path}: y_train has {count} different labels up to {int(y_train.max())} but none "
            f"is {missing}; labels must be 0 to classes - 1."
        )
    if int(y_test.max()) >= count:
        raise StbpError(
            f"{path}: y_test holds the label {int(y_test.max())}, which is out of range: "
            f"y_train has labels 0 to {count - 1}."
        )
    return Parts(
        ArrayDataset(x_train, y_train, counts=counts),
        ArrayDataset(x_test, y_test, counts=counts),
        [str(label) for label in range(count)],
        f"numpy archive {path}" + f", frames of {num_steps} time steps" * frames,
        input_max=255.0 if counts else 1.0,
    )


def _frames(path: Path, arrays: dict[str, np.ndarray], num_steps: int) -> tuple[bool, bool]:
    """Whether samples are frames, as many as `num_steps`, and whether these count events."""
    x_train, x_test = arrays["x_train"], arrays["x_test"]
    if x_train.ndim != 5:
        return False, False
    if x_train.shape[1] != num_steps:
        raise StbpError(
            f"{path}: x_train holds {x_train.shape[1]} frames a sample, and the network has "
            f"{num_steps} time steps: give --steps {x_train.shape[1]}."
        )
    kinds = [np.uint8 if x.dtype == np.uint8 else np.floating for x in (x_train, x_test)]
    if kinds[0] != kinds[1]:
        raise StbpError(
            f"{path}: x_train is {x_train.dtype} and x_test {x_test.dtype}: uint8 are counts of "
            f"events, floats values in [0, 1]; they must be alike."
        )
    return True, kinds[0] == np.uint8


def _read(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise StbpError(f"No such file: {path}; npz:FILE wants a numpy archive (.npz).")
    with path.open("rb") as file:
        try:
            archive = np.load(file, allow_pickle=False)
        except UNREADABLE as error:
            raise StbpError(
                f"{path} is not a readable numpy archive (.npz); write one with numpy.savez."
            ) from error
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise StbpError(
                f"{path} holds a single array, not an archive; write it with numpy.savez."
            )
        if missing := [name for name in _NAMES if name not in archive.files]:
            raise StbpError(
                f"{path} lacks {', '.join(missing)}: it must hold {', '.join(_NAMES)} and holds "
                f"{', '.join(archive.files) or 'nothing'}."
            )
        arrays = {}
        for name in _NAMES:
            try:
                arrays[name] = archive[name]
                if not isinstance(arrays[name], np.ndarray):
                    raise ValueError("no array, but bytes")
            except MemoryError as error:
                raise StbpError(
                    f"{path}: {name} claims to be larger than memory: it is damaged, or too large "
                    "for this machine."
                ) from error
            except RuntimeError as error:  # NotImplementedError, too
                raise StbpError(
                    f"{path}: {name} is encrypted, or packed in a way that Python does not read "
                    f"({error}); write the archive with numpy.savez."
                ) from error
            except UNREADABLE as error:
                raise StbpError(
                    f"{path}: {name} is damaged or holds Python objects, which are refused."
                ) from error
        return arrays


def _images(path: Path, name: str, x: np.ndarray) -> Tensor:
    """Check images of any accepted layout and return them as uint8 `[N, (T,) C, H, W]`."""
    if x.shape[:1] == (0,):
        raise StbpError(f"{path}: {name} holds no images.")
    if x.ndim not in (3, 4, 5) or 0 in x.shape:
        raise StbpError(f"{path}: {name} has shape {list(x.shape)}; it must be {_LAYOUTS}.")
    if x.dtype != np.uint8:
        if not np.issubdtype(x.dtype, np.floating):
            raise StbpError(
                f"{path}: {name} has values of type {x.dtype}; they must be uint8, or floats in "
                "[0, 1]."
            )
        if not np.isfinite(x).all():
            raise StbpError(f"{path}: {name} holds values that are NaN or infinite.")
        low, high = float(x.min()), float(x.max())
        if low < 0 or high > 1:
            raise StbpError(
                f"{path}: {name} holds floats from {low:g} to {high:g}; floats must lie in [0, 1] "
                "(or store the pixels as uint8)."
            )
        x = np.rint(x * 255).astype(np.uint8)
    if x.ndim == 3:
        return torch.from_numpy(x).unsqueeze(1)
    if x.ndim == 5:
        return torch.from_numpy(x)
    first, last = x.shape[1] <= 4, x.shape[3] <= 4
    if first == last:
        raise StbpError(
            f"{path}: {name} has shape {list(x.shape)}, which does not tell where the channels "
            f"are; it must be {_LAYOUTS}."
        )
    images = torch.from_numpy(x)
    return images if first else images.permute(0, 3, 1, 2).contiguous()


def _labels(path: Path, name: str, y: np.ndarray, count: int) -> Tensor:
    """Check labels `[N]` (or `[N, 1]`) and return them as int64 `[N]`."""
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise StbpError(f"{path}: {name} has shape {list(y.shape)}; labels must be [N].")
    if len(y) != count:
        raise StbpError(
            f"{path}: {name} holds {len(y)} labels for {count} images; their numbers must agree."
        )
    if y.dtype.kind not in "iu":
        raise StbpError(f"{path}: {name} has type {y.dtype}; labels must be integers.")
    for label in (int(y.min()), int(y.max())):
        if not 0 <= label < 1 << 63:
            raise StbpError(
                f"{path}: {name} holds the label {label}, which is out of range: labels start at 0."
            )
    return torch.from_numpy(y.astype(np.int64))
