"""What all sessions of one ingress process share: how many there are, and how many bytes they hold."""

from __future__ import annotations

import resource
from collections import Counter
from typing import Final

from ingress.clients import counted_as
from shared.metrics import BYTES_IN_FLIGHT, CONNECTIONS

OWN_FILES: Final = 128
"""File descriptors that a process needs besides its connections: API, database, Redis, ports, files."""

MOST_FILES: Final = 1_048_576
"""File descriptors asked for where the system sets no limit."""


def raise_file_limit() -> None:
    """Let this process open as many files as it may: a connection is one, and the soft limit is often 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def room_for_connections() -> int:
    """Connections for which this process has file descriptors."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_FILES if soft == resource.RLIM_INFINITY else max(1, soft - OWN_FILES)


PARSED_AT_ONCE: Final = 2
"""Large messages parsed at once, each in a thread."""

COPIES: Final = 2.25
"""What a message in flight costs, in its size: its buffer, its parts, the API's call, the bytes to Redis (measured)."""


def message_budget(memory: int, *, largest: int) -> int:
    """Bytes of messages that may be in flight, so that with all that is made of them they stay within ``memory``.

    There is room for one message of the ``largest`` size in any case.
    """
    return max(largest, int(memory / COPIES))


class Slot:
    """One connection as it is counted, from its first sight until ``release``, which may be called twice."""

    __slots__ = ("_limits", "_network", "is_free")

    def __init__(self, limits: SharedLimits, network: str, *, is_free: bool) -> None:
        self._limits: SharedLimits | None = limits
        self._network = network
        self.is_free = is_free
        """False when this is one connection too many: it is counted, and to be closed."""

    def release(self) -> None:
        if self._limits is not None:
            self._limits.leave(self._network)
            self._limits = None


class SharedLimits:
    """Counts connections, in all and by address (IPv6: by /64), and bytes of messages until their reply."""

    def __init__(self, *, max_connections: int, max_connections_per_ip: int, max_bytes: int) -> None:
        self.max_connections = max_connections
        self._max_connections_per_ip = max_connections_per_ip
        self._max_bytes = max_bytes
        self._by_network: Counter[str] = Counter()
        self._connections = 0
        self.bytes = 0
        self._most_bytes = 0

    def enter(self, ip: str) -> Slot:
        """Count one connection of a client."""
        network = counted_as(ip)
        self._connections += 1
        self._by_network[network] += 1
        CONNECTIONS.inc()
        is_free = (
            self._connections <= self.max_connections and self._by_network[network] <= self._max_connections_per_ip
        )
        return Slot(self, network, is_free=is_free)

    def leave(self, network: str) -> None:
        """Count one connection less; ``Slot.release`` calls this once."""
        self._connections -= 1
        self._by_network[network] -= 1
        CONNECTIONS.dec()
        if not self._by_network[network]:
            del self._by_network[network]

    def reserve(self, count: int) -> bool:
        """Take ``count`` bytes of the budget; False, and nothing taken, when there are not so many left."""
        if self.bytes + count > self._max_bytes:
            return False
        self.bytes += count
        self._most_bytes = max(self._most_bytes, self.bytes)
        BYTES_IN_FLIGHT.set(self.bytes)
        return True

    def take_most_bytes(self) -> int:
        """The most bytes that were in flight at once since this was last asked."""
        most, self._most_bytes = self._most_bytes, self.bytes
        return most

    def release(self, count: int) -> None:
        self.bytes -= count
        BYTES_IN_FLIGHT.set(self.bytes)
