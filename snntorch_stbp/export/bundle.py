"""Exports that are a folder of files: whole, verified, or absent."""

from __future__ import annotations

import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..errors import StbpError, UsageError
from ..frozen import inputs
from ..lowering import FixedPointNet
from .golden import Golden
from .verify import Agreement


@dataclass(frozen=True)
class Bundle:
    """An exported folder.

    Attributes:
        path: The folder.
        files: The files in it.
        agreement: What was compared with the torch module and found equal.
        compiled: Of C: whether a compiler was there, so that the program itself was compared.
    """

    path: Path
    files: tuple[Path, ...]
    agreement: Agreement
    compiled: bool = False


DAY = 24 * 60 * 60.0


def check_free(path: Path, force: bool, wrote: str) -> None:
    """Refuse a path that is taken; an export that was killed is tidied up before.

    Args:
        path: The folder that is to be written.
        force: Replace it, if it is an earlier export.
        wrote: A pattern of the names of files that exports of this kind consist of.

    Raises:
        UsageError: If `path` is a file, a folder that is not to be replaced, or one that holds
            anything but an earlier export of this kind.
    """
    with suppress(OSError):
        _recover(path.resolve(), wrote)
    if not path.exists():
        return
    if not path.is_dir():
        raise UsageError(f"'{path}' is a file; give the name of a folder.")
    if not force:
        raise UsageError(f"'{path}' exists already; replace it with --force.")
    other = _foreign(path, wrote)
    if other is not None:
        raise UsageError(
            f"'{path}' holds '{other}', which is not of an export of this kind, and is not "
            f"replaced; give the name of another folder."
        )


def _foreign(folder: Path, wrote: str) -> str | None:
    """What a folder holds that is not of an export."""
    for file in sorted(folder.iterdir()):
        if not re.fullmatch(wrote, file.name) or file.is_dir():
            return file.name
    return None


def _recover(place: Path, wrote: str) -> None:
    """Put back an export that was to be replaced when the process was killed, and remove what such
    processes left.
    """
    old = re.compile(rf"\.{re.escape(place.name)}\.[0-9a-f]{{8}}\.old")
    unfinished = re.compile(rf"\.{re.escape(place.name)}\.\w{{8}}\.unfinished")
    left = [each for each in place.parent.iterdir() if each.is_dir() and not each.is_symlink()]
    age = {each: time.time() - each.stat().st_mtime for each in left}
    before = [each for each in left if old.fullmatch(each.name) and not _foreign(each, wrote)]
    before.sort(key=age.__getitem__)
    if before and not place.exists():
        before.pop(0).rename(place)
    stale = [each for each in left if unfinished.fullmatch(each.name) and age[each] > DAY]
    for each in (*before, *stale):
        shutil.rmtree(each, ignore_errors=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path` that takes its place if all goes well, and is removed if not.

    Raises:
        StbpError: If it cannot be written; what `path` held before stays.
    """
    place = path.resolve()  # which may be the working directory
    old = place.with_name(f".{place.name}.{secrets.token_hex(4)}.old")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(".unfinished", f".{place.name}.", place.parent) as around:
            new = Path(around, "new")
            new.mkdir()
            yield new
            if place.exists():
                place.rename(old)
            try:
                new.rename(place)
            except BaseException:
                if old.exists() and not place.exists():
                    old.rename(place)
                raise
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        reason = error.strerror or error
        raise StbpError(f"cannot write the folder '{path}': {reason}.") from error


def check_samples(net: FixedPointNet, samples: torch.Tensor) -> None:
    """Refuse samples that the network does not take, and a network that was not read right.

    Raises:
        UsageError: If the network is not one of integers, there are no samples, one is not
            finite, or frames are not one per time step.
        StbpError: If the network computes something else than what was read of it.
    """
    if not isinstance(net, FixedPointNet):
        raise UsageError(
            f"folders and C hold networks of integers, not a {type(net).__name__}: give "
            f"lower(model), of a trained network."
        )
    inputs.check_samples(samples)
    inputs.check_steps(samples, net.num_steps)
    if net.reading is not None:
        net.reading.check(samples)


def agree(net: FixedPointNet, samples: torch.Tensor, stored: Golden) -> Agreement:
    """Compare vectors with the torch module: every spike, and the record where floats hold it.

    Raises:
        StbpError: At the first difference.
    """
    record: dict[str, torch.Tensor] = {}
    scores = net(samples, record).double().sum(0)
    spikes = 0
    for stage in net.integers.stages:
        if stage.neuron is not None:
            ours = record[stage.name].transpose(0, 1).numpy()
            spikes += ours.size
            _equal(ours, stored[f"spikes/{stage.name}"], f"the spikes of '{stage.name}'")
    last, votes = net.integers.stages[-1], net.votes
    expected = stored["record"]
    if votes is not None:
        neurons = stored[f"spikes/{last.name}"].shape[-1]
        scores = (scores * (neurons // votes)).round()
    elif last.neuron is None:
        scores = scores / float(last.unit[0])
    if net.dtype is torch.float32:
        _equal(scores.numpy(), expected, "the record")
    return Agreement(len(expected), spikes, expected.size)


def _equal(ours: np.ndarray, theirs: np.ndarray, what: str) -> None:
    if not np.array_equal(ours, theirs):
        index = tuple(int(i) for i in np.argwhere(ours != theirs)[0])
        raise StbpError(
            f"{what} differ from the torch module first at {list(index)} (sample, step, ...): "
            f"this is a defect of snntorch-stbp, please report it with this message."
        )
