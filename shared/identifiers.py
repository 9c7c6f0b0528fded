"""Random identifiers: the system's randomness, fetched by the block.

One read of the system's source for each identifier is a system call, which costs 1 µs on bare metal and 30 µs in a
sandboxed container, as much as parsing the headers of a message.
"""

from __future__ import annotations

import os
import threading
from typing import Final

BLOCK: Final = 4096
"""Bytes fetched at once."""


class RandomHex:
    """Hex digits that nobody has seen before, from any thread; a forked child begins with a block of its own."""

    def __init__(self) -> None:
        self._block = b""
        self._position = 0
        self._lock = threading.Lock()
        os.register_at_fork(after_in_child=self._begin_anew)

    def __call__(self, size: int) -> str:
        """``2 * size`` hex digits."""
        with self._lock:
            if self._position + size > len(self._block):
                self._block = os.urandom(max(BLOCK, size))
                self._position = 0
            taken = self._block[self._position : self._position + size]
            self._position += size
        return taken.hex()

    def _begin_anew(self) -> None:
        self._block = b""
        self._lock = threading.Lock()


random_hex: Final = RandomHex()
"""``random_hex(16)``: 32 hex digits."""
