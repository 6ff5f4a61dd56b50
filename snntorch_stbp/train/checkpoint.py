"""Checkpoints: written whole or not at all, read without running anything that is in them."""

from __future__ import annotations

import io
import pickle
import warnings
from pathlib import Path
from typing import Any

import torch

from ..errors import StbpError
from ..files import atomic_write

FORMAT = "snntorch-stbp checkpoint 1"


def save(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors and plain values) to `path`, all of it or nothing.

    Raises:
        StbpError: If the file cannot be written; an earlier file at `path` is kept.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    with atomic_write(path) as file:
        file.write(buffer.getbuffer())


def load(path: Path, model: str | None = None) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Args:
        path: The file.
        model: Name of the model that the checkpoint must be of, if that matters.

    Raises:
        StbpError: If the file is missing, damaged, not a checkpoint of this project, of another
            model, or holds anything but tensors and plain values.
    """
    if not path.is_file():
        raise StbpError(f"there is no checkpoint '{path}'.")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")  # refused below, or fine
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported" in str(error) or "GLOBAL" in str(error):
            raise StbpError(
                f"'{path}' holds more than tensors and plain values and could run code: refused."
            ) from error
        raise StbpError(f"'{path}' is damaged, or not a checkpoint at all.") from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise StbpError(f"'{path}' is damaged, or not a checkpoint at all.") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise StbpError(f"'{path}' is not a checkpoint of snntorch-stbp.")
    if model is not None and state.get("name") != model:
        raise StbpError(f"'{path}' is a checkpoint of {state.get('name')}, not of {model}.")
    return state
