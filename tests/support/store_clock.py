"""A clock of the tests' own for the message store and the forwarder: hours pass in no time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Final

import pytest
import redis

import forwarder.batch
from forwarder.batch import BatchForwarder
from sandbox.redis_server import RedisServer
from shared import store_scripts

REDIS_CLOCK: Final = "redis.call('TIME')"
KEY: Final = "tests-clock"


@contextmanager
def without_fsync(server: RedisServer) -> Iterator[None]:
    """A Redis that need not survive a crash of the machine: many small steps cost their computing only."""
    client = server.client()
    client.config_set("appendfsync", "no")
    try:
        yield
    finally:
        client.config_set("appendfsync", "always")


class StoreClock:
    """Replaces Redis's clock in the store's scripts, and the forwarder's, until ``patch`` is undone."""

    def __init__(self, client: redis.Redis, patch: pytest.MonkeyPatch, *, now: float = 1_700_000_000.0) -> None:
        self._client = client
        self.turn_to(now)
        for name, script in vars(store_scripts).items():
            if isinstance(script, str) and REDIS_CLOCK in script:
                changed = script.replace(REDIS_CLOCK, f"{{redis.call('GET', '{KEY}'), '0'}}")
                patch.setattr(store_scripts, name, changed)
        clock = SimpleNamespace(time=lambda: self.now, monotonic=lambda: self.now, sleep=time.sleep)
        patch.setattr(forwarder.batch, "time", clock)
        # A step is over long before a lease would be renewed.
        patch.setattr(BatchForwarder, "_keep_lease", lambda _: None)

    def turn_to(self, now: float) -> None:
        """Set the clock to the Unix time ``now``."""
        self.now = now
        self._client.set(KEY, repr(now))

    def advance(self, seconds: float) -> None:
        self.turn_to(self.now + seconds)
