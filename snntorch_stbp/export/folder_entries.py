"""Objects and arrays of a folder of integers, each number checked as it is read."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..errors import StbpError
from ..files import UNREADABLE
from ..lowering.layers import Ints
from ..lowering.ranges import INT32
from .array import Array


class Entry:
    """An object of the JSON file, whose members are checked as they are read."""

    def __init__(self, members: Any, where: str) -> None:
        if not isinstance(members, dict):
            raise StbpError(f"{where} is no JSON object.")
        self.members, self.where = members, where

    def value(self, key: str, kind: type) -> Any:
        """A member of the type `kind`."""
        if key not in self.members:
            raise StbpError(f"'{key}' is missing in {self.where}.")
        value = self.members[key]
        whole = isinstance(value, int) and not isinstance(value, bool)
        if kind is float and whole:
            value = float(value) if abs(value) < 1 << 64 else math.inf
        if not isinstance(value, kind) or (kind is int and not whole):
            raise StbpError(
                f"'{key}' of {self.where} is {value!r:.40}, not of type {kind.__name__}."
            )
        return value

    def whole(self, key: str, low: int, high: int) -> int:
        """An integer in a range."""
        value: int = self.value(key, int)
        if not low <= value <= high:
            raise StbpError(f"'{key}' of {self.where} is {value}, not {low} to {high}.")
        return value

    def positive(self, key: str) -> float:
        """A finite number above 0."""
        value: float = self.value(key, float)
        if not 0 < value < math.inf:
            raise StbpError(f"'{key}' of {self.where} is {value:g}, not a number above 0.")
        return value

    def optional(self, key: str, low: int, high: int) -> int | None:
        """An integer in a range, or null."""
        return None if self.members.get(key, 0) is None else self.whole(key, low, high)

    def wholes(self, key: str, count: int, low: int, high: int) -> tuple[int, ...]:
        """`count` integers in a range."""
        values = self.value(key, list)
        entry = Entry(dict(enumerate(values)), f"'{key}' of {self.where}")
        if len(values) != count:
            raise StbpError(f"'{key}' of {self.where} has {len(values)} numbers, not {count}.")
        return tuple(entry.whole(index, low, high) for index in range(count))  # type: ignore[arg-type]

    def pair(self, key: str, low: int) -> tuple[int, int]:
        """Height and width."""
        height, width = self.wholes(key, 2, low, 1 << 16)
        return height, width

    def one_of(self, key: str, *choices: str) -> str:
        """One of some words."""
        value: str = self.value(key, str)
        if value not in choices:
            raise StbpError(f"'{key}' of {self.where} is '{value}', not {' or '.join(choices)}.")
        return value

    def entry(self, key: str) -> Entry:
        """A member that is an object."""
        return Entry(self.value(key, dict), f"'{key}' of {self.where}")

    def entries(self, key: str) -> list[Entry]:
        """A member that is a list of objects."""
        values = self.value(key, list)
        return [Entry(v, f"{key}[{i}] of {self.where}") for i, v in enumerate(values)]

    def words(self, key: str) -> dict[str, str]:
        """A member that is an object of strings."""
        entry = self.entry(key)
        return {name: entry.value(name, str) for name in entry.members}


class Arrays:
    """The arrays of one file, which must be those that the JSON file declares."""

    def __init__(self, file: Path, declared: Entry) -> None:
        self.file = file
        self.arrays: dict[str, Array] = {}
        try:
            with zipfile.ZipFile(file) as stored:
                members = {name.removesuffix(".npy"): name for name in stored.namelist()}
                if (
                    len(members) < len(stored.namelist())
                    or members.keys() != declared.members.keys()
                ):
                    raise StbpError(
                        f"'{file}' holds {', '.join(sorted(members))}, but {declared.where} "
                        f"declares {', '.join(sorted(declared.members))}."
                    )
                for key, name in members.items():
                    with stored.open(name) as member:
                        self._check(key, declared.entry(key), *_header(member))
                    with stored.open(name) as member:
                        array = np.lib.format.read_array(member, allow_pickle=False)
                    self.arrays[key] = array
        except MemoryError as error:
            raise StbpError(
                f"cannot read '{file}': an array in it claims to be larger than memory."
            ) from error
        except UNREADABLE as error:
            reason = f"it is damaged ({error})".replace(" ()", "")
            if isinstance(error, OSError) and error.filename:  # there is none, or not for us
                reason = error.strerror or reason
            raise StbpError(f"cannot read '{file}': {reason}.") from error

    def _check(self, key: str, declared: Entry, shape: tuple[int, ...], dtype: np.dtype) -> None:
        wanted = declared.wholes("shape", len(shape), 0, 1 << 31)
        if wanted != shape or declared.value("dtype", str) != str(dtype):
            raise StbpError(
                f"'{key}' in '{self.file}' is {dtype} {list(shape)}, not "
                f"{declared.members['dtype']} {list(wanted)}."
            )

    def integers(self, key: str) -> Ints:
        """Integers of at most 32 bits."""
        array = self._get(key, "i")
        if array.size and max(-int(array.min()), int(array.max())) >= INT32:
            raise StbpError(f"'{key}' in '{self.file}' holds integers of more than 32 bits.")
        return array.astype(np.int64)

    def reals(self, key: str) -> np.ndarray:
        """Finite floats."""
        array = self._get(key, "f")
        if not np.isfinite(array).all():
            raise StbpError(f"'{key}' in '{self.file}' is not finite everywhere.")
        return array.astype(np.float64)

    def _get(self, key: str, kind: str) -> Array:
        if key not in self.arrays or self.arrays[key].dtype.kind != kind:
            what = "integers" if kind == "i" else "floats"
            raise StbpError(f"'{self.file}' holds no {what} '{key}'.")
        return self.arrays[key]


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of the array that a file holds."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0
    if version != (1, 0):
        read = np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    return shape, dtype
