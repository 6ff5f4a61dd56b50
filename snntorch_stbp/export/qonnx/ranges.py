"""The exact range of a tensor of binary fractions, and the data type that holds it.

`(low, high, fraction)` says that values are multiples of `2^-fraction` between `low` and `high` of
them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Range:
    """Values `k * 2^-fraction` with `low <= k <= high`."""

    low: int
    high: int
    fraction: int = 0

    def __add__(self, other: Range) -> Range:
        a, b, fraction = self._aligned(other)
        return Range(a[0] + b[0], a[1] + b[1], fraction)

    def __sub__(self, other: Range) -> Range:
        a, b, fraction = self._aligned(other)
        return Range(a[0] - b[1], a[1] - b[0], fraction)

    def __mul__(self, other: Range) -> Range:
        products = [x * y for x in (self.low, self.high) for y in (other.low, other.high)]
        return Range(min(products), max(products), self.fraction + other.fraction)

    def _aligned(self, other: Range) -> tuple[tuple[int, int], tuple[int, int], int]:
        fraction = max(self.fraction, other.fraction)
        up, other_up = fraction - self.fraction, fraction - other.fraction
        return (
            (self.low << up, self.high << up),
            (other.low << other_up, other.high << other_up),
            fraction,
        )

    @property
    def signed(self) -> bool:
        """Whether there are negative values."""
        return self.low < 0

    @property
    def bits(self) -> int:
        """Bits that hold every value, with sign if there is one."""
        return bits_of(self.low, self.high)

    @property
    def datatype(self) -> str:
        """The QONNX data type."""
        if self.fraction > 0:
            width = self.bits + (not self.signed)
            return f"FIXED<{width},{width - self.fraction}>"
        if (self.low, self.high) in ((0, 1), (0, 0), (1, 1)):
            return "BINARY"
        width = self.bits - self.fraction  # a negative fraction: trailing zeros
        return f"INT{max(width, 2)}" if self.signed else f"UINT{width}"


def bits_of(low: int, high: int) -> int:
    """Bits of a two's complement (or, without negative values, unsigned) integer in a range."""
    if low < 0:
        return 1 + max(high.bit_length(), (-low - 1).bit_length())
    return max(high.bit_length(), 1)
