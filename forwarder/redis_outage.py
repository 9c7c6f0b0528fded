"""Redis away, which is no defect: which errors mean it, and how often it is told."""

from __future__ import annotations

import time
from typing import Final

import redis
from redis.exceptions import MasterDownError, MaxConnectionsError

AWAY: Final = (
    redis.ConnectionError,  # also while it loads its data
    redis.TimeoutError,
    redis.ReadOnlyError,
    redis.OutOfMemoryError,
    MasterDownError,
)

AWAY_IN_TEXT: Final = ("BUSY ", "MISCONF ", "NOREPLICAS ", "READONLY ", "UNBLOCKED ")
"""Those for which redis-py has no type: busy with a script, no room on the disk, too few replicas, a replica as Redis
6.2 tells it of a script, and the end of a blocked command at a failover."""

TELL_AGAIN_SECONDS: Final = 60.0


def is_outage(error: BaseException | None) -> bool:
    """Whether Redis is away, full or being failed over. All else that it says is a defect of ours."""
    if isinstance(error, MaxConnectionsError):
        return False
    if isinstance(error, redis.ResponseError) and any(words in str(error) for words in AWAY_IN_TEXT):
        return True
    return isinstance(error, AWAY)


class Outage:
    """One that may go on: it is worth a line when it begins, when it changes, and once a minute."""

    def __init__(self) -> None:
        self._told = ""
        self._told_at = 0.0

    def is_news(self, error: BaseException) -> bool:
        """Whether to tell of ``error``, with which one more try has failed."""
        kind, now = type(error).__name__, time.monotonic()
        if kind == self._told and now - self._told_at < TELL_AGAIN_SECONDS:
            return False
        self._told, self._told_at = kind, now
        return True

    def end(self) -> bool:
        """Redis answers. Whether there was an outage until now."""
        was_told, self._told = bool(self._told), ""
        return was_told
