"""On a CPU, lets the C library keep what a training step frees: the next step asks for as much again.

By default glibc hands larger arrays back to the system at once, which then clears them page by page at every step.
Source: ours.
"""

from __future__ import annotations

import ctypes
import platform


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's ``mallopt``."""
KEPT_BYTES = 512 * 2**20
"""How much freed memory a process keeps, at most."""
LARGEST_KEPT_ARRAY = 32 * 2**20
"""Larger arrays go back at once; glibc takes no larger limit."""


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed memory for this process's next requests, until the process ends.

    Returns:
        Whether it could be told; False, and nothing has changed, with another C library.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT_ARRAY)) and bool(mallopt(M_TRIM_THRESHOLD, KEPT_BYTES))
