"""What layers free is kept for the layers that come after them.

glibc's allocator returns large tensors to the system as soon as they are freed. The next layer then
asks for the same pages again, one fault and 4096 zeros for each, which on a CPU can cost as much as
what is computed in them.

Pages that are kept can be lost: a small tensor that outlives a large one may lie at the edge of its
place, which then is too small for the next one of that size, so that a new place is taken. In a
network tensors have many sizes, and others use such places; where all are of one size, and each
step leaves something small behind, the process grows by a tensor a step, until `KeptPages.settle`
gives back what is free.
"""

from __future__ import annotations

import ctypes
import logging
import os
from pathlib import Path

_log = logging.getLogger(__name__)

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # M_TRIM_THRESHOLD, M_MMAP_MAX of malloc.h


def keep_pages() -> bool:
    """Let this process keep the memory that it frees, so that its size is that of its peak.

    Environment variables that tune the allocator (`MALLOC_...`, `GLIBC_TUNABLES`) take precedence.

    Returns:
        Whether it does: not with other allocators than glibc's.
    """
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc, or not Linux
        _log.debug("no mallopt: freed memory goes back to the system")
        return False
    return bool(mallopt(MMAP_MAX, 0) and mallopt(TRIM_THRESHOLD, -1))


class KeptPages:
    """Memory that is kept from step to step, and bounded from epoch to epoch.

    Args:
        keep: Whether to call `keep_pages`.

    Attributes:
        kept: Whether this process keeps what it frees.
    """

    def __init__(self, keep: bool = True) -> None:
        self.kept = keep and keep_pages()
        self.size = 0

    def settle(self) -> bool:
        """Give back what is free if the process is larger by half than at the first call.

        Returns:
            Whether it was.
        """
        if not self.kept:
            return False
        size = resident()
        self.size = self.size or size
        if size <= 1.5 * self.size:
            return False
        _log.debug("%d MiB, %d MiB before: free memory goes back", size >> 20, self.size >> 20)
        ctypes.CDLL(None).malloc_trim(0)
        return True


def resident() -> int:
    """Bytes of this process in memory; 0 where Linux does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
