"""The fixed-point network: a trained network as integers, with the same spikes in every runtime."""

from .aware import FixedPointAware
from .layers import IntNetwork
from .net import FixedPointNet, lower

__all__ = ["FixedPointAware", "FixedPointNet", "IntNetwork", "lower"]
