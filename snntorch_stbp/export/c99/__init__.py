"""The network of integers as C99: `source` writes the header, `program` proves it on samples."""

from .program import WROTE, to_c99

__all__ = ["WROTE", "to_c99"]
