"""Deployment arithmetic: a trained network whose every number float32 holds exactly."""

from .fold import Settings
from .net import FrozenNet, freeze

__all__ = ["FrozenNet", "Settings", "freeze"]
