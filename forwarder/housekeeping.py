"""What somebody must do from time to time: promote retries that are due, find messages that no live job carries."""

from __future__ import annotations

import threading
import time
from typing import Final

import redis

from shared.log import get_logger
from shared.message_store import MessageStore
from shared.metrics import QUEUE_DEAD, QUEUE_OLDEST_SECONDS, QUEUE_RETRIES, QUEUE_WAITING
from shared.queued_message import State

TICK_SECONDS: Final = 0.5
SWEEP_SECONDS: Final = 5.0

log = get_logger(__name__)


class Housekeeping:
    """Runs in one thread of every forwarder's parent process; several at once do no harm."""

    def __init__(self, store: MessageStore, *, batch_size: int) -> None:
        self._store = store
        self._batch_size = batch_size
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="housekeeping", daemon=True)
        self._suspects: set[str] = set()
        self._next_sweep = 0.0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._done.set()
        self._thread.join(timeout=5)

    def tick(self) -> None:
        """Promote what is due; now and then sweep. Raises ``redis.RedisError``."""
        while self._store.promote_due(time.time(), batch_size=self._batch_size) == self._batch_size:
            if self._done.is_set():
                return
        if time.monotonic() >= self._next_sweep:
            self._next_sweep = time.monotonic() + SWEEP_SECONDS
            self.sweep()

    def sweep(self) -> int:
        """Give messages that no live job carries to a new one; returns how many.

        A message must be found so twice: between a job's pop and its first sign of life it looks like lost.
        """
        found = set(self._store.orphans(time.time()))
        lost = sorted(found & self._suspects)
        self._suspects = found - set(lost)
        for start in range(0, len(lost), self._batch_size):
            self._store.requeue(lost[start : start + self._batch_size], only=State.WAITING)
        if lost:
            log.warning("Messages without a live job were queued again", count=len(lost))
        return len(lost)

    def measure(self) -> None:
        """Bring the queue's gauges up to date; without Redis they keep their last values."""
        try:
            depth = self._store.depth()
        except redis.RedisError:
            return
        QUEUE_WAITING.set(depth.waiting)
        QUEUE_RETRIES.set(depth.retries)
        QUEUE_DEAD.set(depth.dead)
        oldest = depth.oldest_accepted_at
        QUEUE_OLDEST_SECONDS.set(0 if oldest is None else max(0.0, time.time() - oldest))

    def _run(self) -> None:
        while not self._done.wait(TICK_SECONDS):
            try:
                self.tick()
            except redis.RedisError as error:
                log.error("Housekeeping failed", error=type(error).__name__)
            except Exception:
                log.exception("Housekeeping failed")
