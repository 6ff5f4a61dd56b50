"""The network of integers as C99: `source` writes the header, `program` proves it on samples."""

from .program import to_c99

__all__ = ["to_c99"]
