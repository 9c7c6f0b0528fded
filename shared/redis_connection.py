"""How the relay connects to Redis, and whether what that Redis acknowledges survives a crash."""

from __future__ import annotations

from typing import Final, cast

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

DURABLE: Final = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}
"""Under these an acknowledged write survives a crash and is never evicted: setting → the value it must have."""

SOCKET_TIMEOUT: Final = 10.0
"""Seconds one command may take. Longer than any fsync, shorter than a client's patience."""


def connect(redis_url: str, *, connections: int = 10, socket_timeout: float | None = SOCKET_TIMEOUT) -> redis.Redis:
    """A client over a pool. No command is ever repeated by the client itself: whether one ran is for us to judge."""
    return redis.Redis.from_url(
        redis_url,
        max_connections=connections,
        socket_timeout=socket_timeout,
        socket_connect_timeout=5.0,
        socket_keepalive=True,
        health_check_interval=30,
        retry=Retry(NoBackoff(), 0),
    )


def durability_mistakes(connection: redis.Redis) -> list[str]:
    """One line for each setting under which an acknowledged message could be lost; empty when Redis is durable.

    Raises ``redis.RedisError`` when Redis does not answer. A Redis that hides CONFIG counts as unknown, so not durable.
    """
    values: dict[str, str] = {}
    try:
        for name in DURABLE:
            # One at a time: before 7.0 CONFIG GET takes one name only.
            values |= cast(dict[str, str], connection.config_get(name))
    except redis.ResponseError:
        return ["CONFIG is not allowed on this Redis, so its durability cannot be checked"]
    return [
        f"{name} is {values.get(name) or 'unset'}, must be {must}"
        for name, must in DURABLE.items()
        if values.get(name) != must
    ]
