"""How the relay connects to Redis, and whether what that Redis acknowledges survives a crash."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import redis
from redis.backoff import NoBackoff
from redis.connection import PythonRespSerializer
from redis.retry import Retry

DURABLE: Final = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}
"""Under these an acknowledged write survives a crash and is never evicted: setting → the value it must have."""

WAITAOF_SINCE: Final = (7, 2)
"""Redis's version (and the one Valkey reports as Redis's) from which WAITAOF can stand in for ``always``."""

Command = tuple[Any, ...]
"""A command's name and its arguments."""

LARGE_VALUE: Final = 6000
"""Bytes from which a value is sent by itself rather than copied into one buffer with its command (redis-py's own)."""

CONNECT_TIMEOUT: Final = 5.0
"""Seconds that a connection may take to be made."""

SOCKET_TIMEOUT: Final = 10.0
"""Seconds one command may take. Longer than any fsync, shorter than a client's patience."""


def connect(
    redis_url: str,
    *,
    connections: int = 10,
    socket_timeout: float | None = SOCKET_TIMEOUT,
    for_large_values: bool = False,
) -> redis.Redis:
    """A client over a pool. No command is ever repeated by the client itself: whether one ran is for us to judge.

    ``for_large_values``: values are sent from where they lie. hiredis, quicker for small ones, copies each four times.
    """
    packer = PythonRespSerializer(LARGE_VALUE, _encoded) if for_large_values else None
    return redis.Redis.from_url(
        redis_url,
        max_connections=connections,
        socket_timeout=socket_timeout,
        socket_connect_timeout=CONNECT_TIMEOUT,
        socket_keepalive=True,
        health_check_interval=30,
        retry=Retry(NoBackoff(), 0),
        command_packer=packer,
    )


def _encoded(value: str | int | bytes | memoryview) -> bytes | memoryview:
    return value if isinstance(value, bytes | memoryview) else str(value).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Durability:
    """Whether what Redis acknowledges survives its crash, and what must be asked of it for that."""

    mistakes: tuple[str, ...] = ()
    """One line for each reason for which an acknowledged message could be lost; empty when Redis is durable."""
    needs_wait_aof: bool = False
    """Redis acknowledges before fsync, so a write counts only after WAITAOF."""


def judge_durability(config: Mapping[str, str] | None, info: Mapping[str, Any]) -> Durability:
    """The decision, from CONFIG GET (None where it is not allowed) and INFO.

    Where CONFIG is hidden, as at many hosts of Redis, INFO still says whether there is an append-only file and what is
    evicted, and WAITAOF proves the rest for each write.
    """
    known = config is not None
    values = dict(config or {})
    if not known:
        if "aof_enabled" in info:
            values["appendonly"] = "yes" if info["aof_enabled"] else "no"
        if "maxmemory_policy" in info:
            values["maxmemory-policy"] = str(info["maxmemory_policy"])
    version = re.match(r"(\d+)\.(\d+)", str(info.get("redis_version", "")))
    can_wait = bool(version) and version is not None and (int(version[1]), int(version[2])) >= WAITAOF_SINCE
    by_wait = can_wait and values.get("appendonly") == "yes" and values.get("appendfsync", "everysec") == "everysec"
    mistakes = []
    for name, must in DURABLE.items():
        is_now = values.get(name)
        if is_now == must or (name == "appendfsync" and by_wait):
            continue
        if is_now is None and not known:
            mistakes.append(f"{name} cannot be checked (CONFIG is not allowed), must be {must}")
        else:
            mistakes.append(f"{name} is {is_now or 'unset'}, must be {must}")
    return Durability(mistakes=tuple(mistakes), needs_wait_aof=by_wait)


def look_at_durability(connection: redis.Redis) -> Durability:
    """Ask this Redis. Raises ``redis.RedisError`` when it does not answer at all."""
    config: dict[str, str] = {}
    # One at a time: before 7.0 CONFIG GET takes one name only.
    is_allowed = all(_asked(config, partial(connection.config_get, name)) for name in DURABLE)
    info: dict[str, Any] = {}
    for section in ("server", "persistence", "memory"):
        _asked(info, partial(connection.info, section))
    return judge_durability(config if is_allowed else None, info)


def _asked(found: dict[str, Any], ask: Callable[[], Any]) -> bool:
    """Add what ``ask`` returns to ``found``; False where an ACL forbids the command or the host has renamed it."""
    try:
        found.update(ask())
    except redis.ResponseError as error:
        if isinstance(error, redis.exceptions.NoPermissionError) or "unknown command" in str(error).lower():
            return False
        raise
    return True
