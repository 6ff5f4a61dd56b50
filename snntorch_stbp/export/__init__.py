"""Export of trained networks to QONNX, verified before the file is kept."""

from .api import Exported, to_qonnx

__all__ = ["Exported", "to_qonnx"]
