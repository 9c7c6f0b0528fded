"""Failed authentications, counted over all ingress processes by client network and by the key's first characters.

A failure's answer is delayed longer with each one, and past ``AUTH_THROTTLE_FAILURES`` it is 421. Only failures are
held up: the look-up of the secret comes first, so a right key is never locked out nor delayed, whoever else guesses
from the same address or at the same key. While Redis does not answer, each process counts for itself.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import redis

from ingress.clients import Network, counted_as, is_in
from shared.log import get_logger

KEY_PREFIX: Final = 12
"""Characters of a wrong key that tell whose key is guessed at: ``sk_`` and nine more."""

FIRST_DELAY: Final = 0.5
LONGEST_DELAY: Final = 8.0
"""Seconds that the second failure's answer waits, doubled with each one, and the most that any answer waits."""

WITHOUT_REDIS: Final = 5.0
"""Seconds without a question to Redis after it has not answered one."""

MAX_LOCAL: Final = 10_000
"""Counters a process keeps while Redis does not answer."""

log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Strike:
    """What one failure leads to."""

    failures: int
    """Failures of this client network or this key's beginning within the window, whichever are more."""
    is_too_many: bool


def delay_after(failures: int) -> float:
    """Seconds that the answer to the ``failures``-th failure waits."""
    return 0.0 if failures < 2 else min(FIRST_DELAY * 2.0 ** min(failures - 2, 16), LONGEST_DELAY)


class FailureThrottle:
    """Counts in Redis under ``<name>:auth-failures:…``; each counter expires ``window`` seconds after its first."""

    def __init__(
        self,
        connection: redis.Redis | None,
        *,
        name: str,
        pepper: str,
        limit: int,
        window: int,
        allowed: tuple[Network, ...] = (),
    ) -> None:
        """``pepper`` keys the digest of a wrong key's beginning, so that Redis holds nothing to guess it from.

        ``allowed``: networks whose failures are not counted. ``connection`` None: this process counts alone.
        """
        self._redis = connection
        self._name = name
        self._pepper = hashlib.sha256(b"auth-failures\0" + pepper.encode()).digest()
        self._limit = limit
        self._window = window
        self._allowed = allowed
        self._local: dict[str, tuple[int, float]] = {}
        self._retry_redis_at = 0.0
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="throttle")

    def keys(self, ip: str, secret: str) -> tuple[str, str]:
        """The counters' names for a client and the wrong key it sent."""
        digest = hmac.digest(self._pepper, secret[:KEY_PREFIX].encode("utf-8", "surrogateescape"), "sha256")
        return (
            f"{self._name}:auth-failures:ip:{counted_as(ip)}",
            f"{self._name}:auth-failures:key:{digest.hex()[:16]}",
        )

    async def failed(self, ip: str, secret: str) -> Strike:
        """Count one failure."""
        if is_in(ip, self._allowed):
            return Strike(failures=0, is_too_many=False)
        keys = self.keys(ip, secret)
        counts: list[int] | None = None
        if self._redis is not None and time.monotonic() >= self._retry_redis_at:
            try:
                counts = await asyncio.get_running_loop().run_in_executor(self._threads, self._count, keys)
            except redis.RedisError as error:
                self._retry_redis_at = time.monotonic() + WITHOUT_REDIS
                log.warning("Failed authentications are counted by this process alone", cause=type(error).__name__)
        if counts is None:
            counts = [self._count_locally(key) for key in keys]
        return Strike(failures=max(counts), is_too_many=max(counts) > self._limit)

    def _count(self, keys: tuple[str, str]) -> list[int]:
        assert self._redis is not None  # noqa: S101
        with self._redis.pipeline(transaction=True) as pipe:
            for key in keys:
                # The first failure starts the window; later ones do not prolong it.
                pipe.set(key, 0, ex=self._window, nx=True)
                pipe.incr(key)
            return [int(count) for count in pipe.execute()[1::2]]

    def _count_locally(self, key: str) -> int:
        now = time.monotonic()
        count, until = self._local.pop(key, (0, 0.0))
        if until <= now:
            count, until = 0, now + self._window
        if len(self._local) >= MAX_LOCAL:
            self._local.pop(next(iter(self._local)))
        self._local[key] = (count + 1, until)
        return count + 1

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._redis is not None:
            self._redis.close()
