"""Parameter types whose errors name the wrong value and what would be right."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from snntorch_stbp.errors import UsageError
from snntorch_stbp.train import bits_file


class Shown(click.ParamType):
    """A type that the help shows as its `metavar`."""

    metavar = ""

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """What stands in the help."""
        return self.metavar


class BitsType(Shown):
    """A bit width, from `low` to `high`.

    Args:
        low: The least width.
        high: The greatest width.
        ternary: Whether the word `ternary` is one.
        floating: Whether 32, floating point, is one. It stays 32 here, so that it can be told from
            an option that was not given.
    """

    name = "bits"

    def __init__(
        self, low: int, high: int, *, ternary: bool = False, floating: bool = True
    ) -> None:
        self.low, self.high = low, high
        self.words = ["ternary"] * ternary + ["32"] * floating
        self.metavar = f"[{'|'.join([f'{low}-{high}', *self.words])}]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read a width; fail with the widths there are."""
        text = str(value).strip().lower()
        if text in self.words:
            return int(text) if text.isdecimal() else text
        if text.isdecimal() and self.low <= int(text) <= self.high:
            return int(text)
        words = [f"{self.low} to {self.high}", *self.words]
        right = " or ".join([", ".join(words[:-1]), words[-1]]) if self.words else words[0]
        right += " (floating point)" if "32" in self.words else ""
        return self.fail(f"'{value}' is no bit width here; use {right}.", param, ctx)


class BitsFile(Shown):
    """A file of bits by layer, read where it is named."""

    name, metavar = "bits file", "FILE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read the file; fail with what is wrong in it."""
        if isinstance(value, dict):
            return value
        try:
            return bits_file.read(Path(value))
        except UsageError as error:
            return self.fail(str(error), param, ctx)


class Whole(Shown):
    """A whole number of at least `low`."""

    name = "integer"

    def __init__(self, low: int, metavar: str = "N") -> None:
        self.low, self.metavar = low, metavar

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read the number; fail with the least one allowed."""
        try:
            number = int(str(value))
        except ValueError:
            self.fail(f"'{value}' is no whole number.", param, ctx)
        if number < self.low:
            self.fail(f"{number} is too small; use {self.low} or more.", param, ctx)
        return number


class Real(Shown):
    """A finite number between `low` and `high`.

    Args:
        low: The least value.
        high: The greatest value, or None.
        above: Whether `low` itself is too small.
    """

    name, metavar = "number", "X"

    def __init__(self, low: float, high: float | None = None, *, above: bool = False) -> None:
        self.low, self.high, self.above = low, high, above

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read the number; fail with the range."""
        try:
            number = float(value)
        except ValueError:
            self.fail(f"'{value}' is no number.", param, ctx)
        above_low = number > self.low if self.above else number >= self.low
        if not (above_low and math.isfinite(number) and number <= (self.high or math.inf)):
            self.fail(f"{value} is out of range; use a number {self._range()}.", param, ctx)
        return number

    def _range(self) -> str:
        if self.high is not None:
            return f"from {self.low:g} to {self.high:g}"
        return f"above {self.low:g}" if self.above else f"of at least {self.low:g}"


class Split(Shown):
    """Parts separated by commas, as a tuple."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Split at commas, and read the parts."""
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in str(value).split(",")]
        return self.read([part for part in parts if part], param, ctx)

    def read(
        self, parts: list[str], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Any, ...]:
        """The values of the parts."""
        raise NotImplementedError


class Names(Split):
    """Names, or `none` for an empty tuple; checked where they are used."""

    name, metavar = "names", "A,B|none"

    def read(
        self, parts: list[str], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Any, ...]:
        """In small letters."""
        names = tuple(part.lower() for part in parts)
        return () if names == ("none",) else names


class Runs(Split):
    """Folders of runs; checked where they are used."""

    name, metavar = "runs", "RUN[,RUN]"

    def read(
        self, parts: list[str], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Any, ...]:
        """At least one."""
        if not parts:
            self.fail("name the folder of a run, such as runs/resnet18-digits-w32-T2-1.")
        return tuple(parts)


class Listed(Split):
    """Values of one kind, each at most once.

    Args:
        kind: What each of them is.
    """

    name, metavar = "list", "A,B,..."

    def __init__(self, kind: click.ParamType) -> None:
        self.kind = kind

    def read(
        self, parts: list[str], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Any, ...]:
        """At least one."""
        if not parts:
            self.fail("name at least one value.", param, ctx)
        return tuple(dict.fromkeys(self.kind.convert(part, param, ctx) for part in parts))
