"""The fixed-point network: a trained network as integers, with the same spikes in every runtime."""

from .layers import IntNetwork
from .net import FixedPointNet, lower

__all__ = ["FixedPointNet", "IntNetwork", "lower"]
