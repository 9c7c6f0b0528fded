"""Commands to Redis from the event loop, over connections of their own.

The hand-over's way: a thread that speaks to Redis waits for the interpreter after each of its system calls, and a busy
event loop gives it up every 5 ms. No command is ever repeated here: whether one ran is for others to judge.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import Any, Final, cast

import redis
from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.connection import HiredisRespSerializer

from shared.redis_connection import CONNECT_TIMEOUT, SOCKET_TIMEOUT, Command

IDLE_SECONDS: Final = 30.0
"""After so long without a command a connection is made anew: something in between may have forgotten it."""

TRUSTED_SECONDS: Final = 0.01
"""After so long without a command it is looked whether the server has closed a connection meanwhile."""


class RedisStream:
    """As many connections as there are exchanges at once; each exchange has one for itself."""

    def __init__(self, redis_url: str, *, timeout: float = SOCKET_TIMEOUT) -> None:
        """``timeout``: seconds for one exchange, from the connect to the last answer."""
        # Of redis-py's pool only what it makes of the URL is used: its way of handing out a connection costs as much
        # as a small exchange.
        self._pool = ConnectionPool.from_url(
            redis_url,
            socket_timeout=None,
            socket_connect_timeout=CONNECT_TIMEOUT,
            socket_keepalive=True,
            retry=Retry(NoBackoff(), 0),
        )
        self._timeout = timeout
        self._idle: list[tuple[AbstractConnection, float]] = []

    async def exchange(self, request: bytes, *, answers: int) -> list[Any]:
        """Send packed commands (``pack``) and return what each is answered, an error as a value.

        Raises ``redis.ConnectionError`` or ``redis.TimeoutError``: whether the commands ran is not known then.
        """
        connection: AbstractConnection | None = None
        try:
            async with asyncio.timeout(self._timeout):
                connection = await self._connected()
                await connection.send_packed_command(request, check_health=False)
                found = [await _answer(connection) for _ in range(answers)]
        except BaseException as error:
            # An answer that comes later must not be taken for that of the next exchange.
            if connection is not None:
                with contextlib.suppress(redis.RedisError, OSError):
                    await connection.disconnect(nowait=True)
            if isinstance(error, TimeoutError):
                raise redis.TimeoutError("Redis did not answer in time") from error
            raise
        self._idle.append((connection, time.monotonic()))
        return found

    async def close(self) -> None:
        """Close the connections that no exchange has."""
        while self._idle:
            await self._idle.pop()[0].disconnect(nowait=True)

    async def _connected(self) -> AbstractConnection:
        while self._idle:
            connection, used = self._idle.pop()
            idle = time.monotonic() - used
            if idle > TRUSTED_SECONDS:
                # Two turns of the loop: in the first it hears what has arrived, in the second it has told.
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            if idle < IDLE_SECONDS and not await _is_closed(connection):
                return connection
            await connection.disconnect(nowait=True)
        connection = cast(AbstractConnection, self._pool.make_connection())  # type: ignore[no-untyped-call]
        await connection.connect()  # type: ignore[no-untyped-call]
        return connection


async def _is_closed(connection: AbstractConnection) -> bool:
    """Whether the server has closed or reset the connection, as far as the loop has heard."""
    # Something to read before anything was asked is the server's good-bye. Of a reset redis-py does not tell before
    # the next command has failed, which then may have run for all we know.
    writer = connection._writer
    return writer is None or writer.is_closing() or await connection.can_read()


async def _answer(connection: AbstractConnection) -> Any:
    try:
        return await connection.read_response()
    except redis.ResponseError as error:
        return error


_SERIALIZER: Final = HiredisRespSerializer()


def pack(commands: Sequence[Command]) -> bytes:
    """Commands as Redis reads them, one after the other."""
    return b"".join(part for command in commands for part in _SERIALIZER.pack(*command))
