"""Export of trained networks to QONNX and NIR, verified before the file is kept."""

from __future__ import annotations

from typing import Any

from ..errors import StbpError
from .api import Exported, to_qonnx
from .c99 import to_c99
from .folder import load_folder, to_folder

__all__ = [
    "Exported",
    "ExportedNir",
    "load_folder",
    "to_c99",
    "to_folder",
    "to_nir",
    "to_qonnx",
]

MISSING_NIR = "export to NIR needs nir and nirtorch: pip install 'snntorch-stbp[nir]'."


def __getattr__(name: str) -> Any:
    """What needs the extra `nir`, imported when it is asked for."""
    if name not in ("ExportedNir", "to_nir"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from . import nir
    except ImportError as error:
        raise StbpError(MISSING_NIR) from error
    return getattr(nir, name)
