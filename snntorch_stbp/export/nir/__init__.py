"""Trained networks as NIR: `graph` makes a graph, `read` reads it twice, `file` verifies both."""

from .file import ExportedNir, to_nir

__all__ = ["ExportedNir", "to_nir"]
