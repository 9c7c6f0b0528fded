"""glibc's heap: large blocks are kept for the next large message, and go back to the system when none comes.

A page that comes fresh from the system costs several times what it costs to fill one (0.5 ms a MB and more in a virtual
machine), and a large message passes through half a dozen buffers of its size.
"""

from __future__ import annotations

import asyncio
import ctypes
from typing import Any, ClassVar, Final

from ingress.limits import COPIES, SharedLimits
from shared.log import get_logger

M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
M_ARENA_MAX: Final = -8
"""From glibc's malloc.h."""

MMAP_THRESHOLD: Final = 32 * 1024 * 1024
"""Bytes from which a block is the system's own: the most that glibc takes."""

AT_ONCE: Final = 256 * 1024
"""Bytes from which a block is the system's own where nothing is kept."""

KEPT: Final = 1024 * 1024 * 1024
"""Free bytes at the heap's end that are kept: all, until ``trim``."""

PERIOD: Final = 10.0
"""Seconds between two looks at what is free."""

SPARE: Final = 8 * 1024 * 1024
"""Free bytes that are kept in any case."""

log = get_logger(__name__)


def set_up() -> None:
    """Choose how the heap is kept, and give back what the imports needed for a moment only."""
    try:
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallinfo2"):
            libc.mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD)
            libc.mallopt(M_TRIM_THRESHOLD, KEPT)
        else:
            # glibc before 2.33 cannot say how much is free, so large blocks go back at once.
            libc.mallopt(M_MMAP_THRESHOLD, AT_ONCE)
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


class _Numbers(ctypes.Structure):
    """glibc's ``struct mallinfo2``."""

    _fields_: ClassVar = [
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks")),
        *((name, ctypes.c_size_t) for name in ("fsmblks", "uordblks", "fordblks", "keepcost")),
    ]


def free_bytes() -> int:
    """Bytes of the heap that nobody uses; 0 where that is not known (glibc before 2.33)."""
    libc: Any = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        return 0
    libc.mallinfo2.restype = _Numbers
    return int(libc.mallinfo2().fordblks)


async def give_back(limits: SharedLimits, *, period: float = PERIOD) -> None:
    """Trim the heap whenever more is free than the messages of the last ``period`` seconds needed at once."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(period)
        wanted = int(COPIES * limits.take_most_bytes()) + SPARE
        if await loop.run_in_executor(None, free_bytes) > wanted:
            await loop.run_in_executor(None, trim)
