"""glibc's heap: large blocks are kept for the next large message, and go back to the system when there is none.

A page that comes fresh from the system costs several times what it costs to fill one (0.5 ms a MB and more in a virtual
machine), and a large message passes through half a dozen buffers of its size.
"""

from __future__ import annotations

import asyncio
import ctypes
from typing import Any, Final

from ingress.limits import SharedLimits
from shared.log import get_logger

M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
M_ARENA_MAX: Final = -8
"""From glibc's malloc.h."""

MMAP_THRESHOLD: Final = 32 * 1024 * 1024
"""Bytes from which a block is the system's own: the most that glibc takes."""

KEPT: Final = 1024 * 1024 * 1024
"""Free bytes at the heap's end that are kept: all, until ``trim``."""

QUIET: Final = 10.0
"""Seconds without much in flight after which free memory goes back."""

MUCH: Final = 1024 * 1024
"""Bytes in flight that leave a heap worth giving back."""

log = get_logger(__name__)


def set_up() -> None:
    """Choose how the heap is kept, and give back what the imports needed for a moment only."""
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT)
        # Threads that take turns for the interpreter need no heaps of their own.
        libc.mallopt(M_ARENA_MAX, 1)
    except (OSError, AttributeError):
        log.debug("Not glibc: its memory is its own affair")
    trim()


def trim() -> None:
    """Give free memory back to the system."""
    libc: Any = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


async def give_back_when_quiet(limits: SharedLimits, *, quiet: float = QUIET) -> None:
    """Trim the heap each time a spell of large messages, or of many at once, has been over for ``quiet`` seconds."""
    loop = asyncio.get_running_loop()
    is_worth_it = False
    while True:
        await asyncio.sleep(quiet)
        if limits.take_most_bytes() >= MUCH:
            is_worth_it = True
        elif is_worth_it:
            is_worth_it = False
            await loop.run_in_executor(None, trim)
