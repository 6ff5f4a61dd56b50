"""What layers free is kept for the layers that come after them.

glibc's allocator returns large tensors to the system as soon as they are freed. The next layer then
asks for the same pages again, one fault and 4096 zeros for each, which on a CPU can cost as much as
what is computed in them.
"""

from __future__ import annotations

import ctypes
import logging
import os

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
