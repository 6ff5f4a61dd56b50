"""Keep the noise of imports off the terminal, and nothing else.

Each rule names one message that tells a user of this command line nothing he can act on. Warnings
that no rule names are shown as ever. Must run before torch, Brevitas and Lightning are imported.
"""

from __future__ import annotations

import logging
import warnings

# Brevitas: an optional CUDA kernel for rotations that are not used here, and names of dimensions.
# torch: gradients of several processes are copied where weights have one channel, at no cost.
WARNINGS = (
    (r"fast_hadamard_transform package not found", UserWarning),
    (r"Named tensors and all their associated APIs are an experimental feature", UserWarning),
    (r"Grad strides do not match bucket view strides", UserWarning),
)

# torch looks for a CUDA compiler and tells when there is one without a GPU; matplotlib tells that
# its first plot takes a moment.
LOG_MESSAGES = (
    ("torch.utils.cpp_extension", "No CUDA runtime is found"),
    ("matplotlib.font_manager", "Matplotlib is building the font cache"),
)

# Fabric's tips, and its banner for every process; its real warnings go through `warnings`.
INFO_LOGGERS = ("lightning_fabric.utilities", "lightning_utilities")


class _Unless(logging.Filter):
    """Drops the records whose message begins with `prefix`."""

    def __init__(self, prefix: str) -> None:
        super().__init__()
        self.prefix = prefix

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(self.prefix)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Unless) and other.prefix == self.prefix

    def __hash__(self) -> int:
        return hash(self.prefix)


def hush() -> None:
    """Install the rules; calling it again changes nothing."""
    for message, category in WARNINGS:
        warnings.filterwarnings("ignore", message=message, category=category)
    for logger, prefix in LOG_MESSAGES:
        logging.getLogger(logger).addFilter(_Unless(prefix))
    for logger in INFO_LOGGERS:
        logging.getLogger(logger).setLevel(logging.WARNING)
