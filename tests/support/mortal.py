"""A Redis client of a process that is to die: at a chosen instant, and with everything that would come after it."""

from __future__ import annotations

from typing import Any

import redis

from sandbox.redis_server import RedisServer


class Killed(BaseException):
    """The process is dead. No ``except Exception`` of the code under test may survive it."""


class Life:
    """How long a process lives, counted in steps: each command sent is one and each answer read is one.

    ``cut`` is the share of the bytes that it still sends when it dies while sending. In the steps of ``outage`` it
    lives, but Redis does not answer it.
    """

    def __init__(self, steps: int | None, cut: float = 0.0, *, outage: range = range(0)) -> None:
        self._steps = steps
        self._left: int | None = None
        self._outage = outage
        self._taken: int | None = None
        self.cut = cut
        self.is_over = False

    def begin(self) -> None:
        """From now on steps count."""
        self._left = self._steps
        self._taken = 0

    def spend(self) -> None:
        """One step. Raises ``Killed`` when none is left, and from then on always: the dead do no clean-up."""
        if self._taken is not None:
            self._taken += 1
            if self._taken in self._outage:
                raise redis.ConnectionError("no Redis")
        if self._left is None:
            return
        if self._left <= 0:
            self.is_over = True
            raise Killed
        self._left -= 1

    @property
    def is_last_breath(self) -> bool:
        """Whether the step that comes is the one in which the process dies."""
        return self._left == 0 and not self.is_over


def mortal_client(server: RedisServer, life: Life) -> redis.Redis:
    """A client that ends with ``life``: in the middle of a command, or when Redis has done it and before the answer."""

    class MortalConnection(redis.Connection):
        def send_packed_command(self, command: Any, check_health: bool = True) -> None:
            if life.is_last_breath:
                sent = command if isinstance(command, bytes) else b"".join(command)
                super().send_packed_command([sent[: int(len(sent) * life.cut)]], check_health=False)
                self.disconnect()
            life.spend()
            super().send_packed_command(command, check_health)

        def send_command(self, *args: Any, **options: Any) -> None:
            if life.is_over and args[0] == "UNWATCH":
                # Said by a pipeline's finaliser, where nobody could catch the end of a process.
                raise redis.ConnectionError
            super().send_command(*args, **options)

        def read_response(self, *args: Any, **options: Any) -> Any:
            response = super().read_response(*args, **options)
            life.spend()
            return response

    pool = redis.ConnectionPool(connection_class=MortalConnection, host="127.0.0.1", port=server.port)
    client = redis.Redis(connection_pool=pool)
    client.ping()
    life.begin()
    return client
