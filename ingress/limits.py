"""What all sessions of one ingress process share: how many there are, and how many bytes they hold."""

from __future__ import annotations

from collections import Counter

from shared.metrics import BYTES_IN_FLIGHT, CONNECTIONS


class SharedLimits:
    """Counts connections, in all and by address, and bytes of messages between their first byte and their reply."""

    def __init__(self, *, max_connections: int, max_connections_per_ip: int, max_bytes: int) -> None:
        self._max_connections = max_connections
        self._max_connections_per_ip = max_connections_per_ip
        self._max_bytes = max_bytes
        self._by_ip: Counter[str] = Counter()
        self._connections = 0
        self.bytes = 0

    def connect(self, ip: str) -> bool:
        """Count one connection; False when it is one too many. ``disconnect`` is due in either case."""
        self._connections += 1
        self._by_ip[ip] += 1
        CONNECTIONS.inc()
        return self._connections <= self._max_connections and self._by_ip[ip] <= self._max_connections_per_ip

    def disconnect(self, ip: str) -> None:
        self._connections -= 1
        self._by_ip[ip] -= 1
        CONNECTIONS.dec()
        if not self._by_ip[ip]:
            del self._by_ip[ip]

    def reserve(self, count: int) -> bool:
        """Take ``count`` bytes of the budget; False, and nothing taken, when there are not so many left."""
        if self.bytes + count > self._max_bytes:
            return False
        self.bytes += count
        BYTES_IN_FLIGHT.set(self.bytes)
        return True

    def release(self, count: int) -> None:
        self.bytes -= count
        BYTES_IN_FLIGHT.set(self.bytes)
