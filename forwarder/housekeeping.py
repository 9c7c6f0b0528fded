"""What somebody must do from time to time: promote retries that are due, take back what a dead worker had in hand,
see that there are jobs where there is mail, deliver notifications."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Final

import redis

from forwarder.redis_outage import Outage
from shared.log import get_logger
from shared.message_store import MessageStore

TICK_SECONDS: Final = 0.25
SWEEP_SECONDS: Final = 5.0

LOCK_SECONDS: Final = 8.0
"""The housekeeper's lock lasts so long after its last tick: when it is killed, another takes over within that time."""

STOP_SECONDS: Final = 2.0
"""Seconds that a stop waits for the round under way: with SHUTDOWN_TIMEOUT it stays under a platform's 30 s."""

PROMOTED_AT_ONCE: Final = 500
"""Retries that one step promotes: Redis is held up for a few milliseconds."""

log = get_logger(__name__)


class Housekeeping:
    """Runs in one thread of every forwarder's parent process; the one that holds the lock does the work."""

    def __init__(self, store: MessageStore, *, batch_size: int, chores: Sequence[Callable[[], object]] = ()) -> None:
        self._store = store
        self._batch_size = batch_size
        self._chores = chores
        self._who = uuid.uuid4().hex
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="housekeeping", daemon=True)
        self._next_sweep = 0.0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End after the round under way and hand the lock on. A hanging Redis is not waited for: the lock expires."""
        self._done.set()
        if self._thread.is_alive():
            self._thread.join(timeout=STOP_SECONDS)
        else:
            self._step_down()

    def tick(self) -> bool:
        """One round, where this process holds the lock. False where another does. Raises ``redis.RedisError``."""
        if not self._store.lead(self._who, LOCK_SECONDS):
            return False
        while self._store.promote_due(PROMOTED_AT_ONCE) >= PROMOTED_AT_ONCE and not self._done.is_set():
            self._store.lead(self._who, LOCK_SECONDS)
        if time.monotonic() >= self._next_sweep:
            self._next_sweep = time.monotonic() + SWEEP_SECONDS
            self.sweep()
        self._store.add_tickets(self._batch_size)
        for chore in self._chores:
            chore()
        return True

    def sweep(self) -> int:
        """Give back what jobs without a sign of life had in hand; returns how many messages."""
        # Also now and then: an ingress of an earlier release may still run beside us.
        while self._store.adopt():
            continue
        count = self._store.recover()
        if count:
            log.warning("Messages of a dead worker were queued again", count=count)
        return count

    def gauges(self) -> dict[str, float] | None:
        """The queue's gauges (``shared.metrics.QUEUE_GAUGES``) as they are now; None while Redis does not answer."""
        try:
            depth = self._store.depth()
        except redis.RedisError:
            return None
        oldest = depth.oldest_accepted_at
        return {
            "plunk_smtp_queue_waiting": depth.waiting,
            "plunk_smtp_queue_sending": depth.sending,
            "plunk_smtp_queue_retries": depth.retries,
            "plunk_smtp_queue_dead": depth.dead,
            "plunk_smtp_queue_oldest_seconds": 0.0 if oldest is None else max(0.0, time.time() - oldest),
        }

    def _run(self) -> None:
        outage = Outage()
        while not self._done.wait(TICK_SECONDS):
            try:
                self.tick()
                if outage.end():
                    log.warning("Redis answers again, housekeeping goes on")
            except redis.RedisError as error:
                if outage.is_news(error):
                    log.error("Housekeeping failed", error=type(error).__name__)
            except Exception:
                log.exception("Housekeeping failed")
        self._step_down()

    def _step_down(self) -> None:
        try:
            self._store.step_down(self._who)
        except redis.RedisError as error:
            log.warning("Housekeeping was not handed on", error=type(error).__name__)
