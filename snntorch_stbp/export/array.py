"""The type of the arrays that graphs, golden vectors and runtimes exchange."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

Array = npt.NDArray[Any]
