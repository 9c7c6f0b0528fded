"""One RQ job: a batch of messages that go out at the same time, each with its own verdict."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Final

from rq import get_current_job

from forwarder.next_step import Action, Step, next_step
from forwarder.sender import Outcome, Sender
from shared.log import get_logger
from shared.message_store import MessageStore
from shared.metrics import DELIVERY_SECONDS, VERDICTS
from shared.queued_message import State, StoredMessage

START_SECONDS: Final = 10.0
"""Seconds into a job within which calls are begun; what is left is given back. One request more is < JOB_TIMEOUT."""

LEASE_SECONDS: Final = 10.0
"""How long a job counts as alive after its worker's last sign; a sign is given three times as often."""

PARK_PACE: Final = 20.0
"""Messages a second at which a rate-limited project's messages come back: the API's own default rate."""

FLUSH_AT: Final = 20
"""Sent messages that are forgotten in one transaction."""

log = get_logger(__name__)


class BatchForwarder:
    """Forwards batches for one worker process."""

    def __init__(
        self,
        store: MessageStore,
        sender: Sender,
        *,
        concurrency: int,
        lifetime: float,
        is_stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._store = store
        self._sender = sender
        self._concurrency = concurrency
        self._lifetime = lifetime
        self._is_stopping = is_stopping
        self._threads = ThreadPoolExecutor(concurrency, thread_name_prefix="forward")

    def forward(self, message_ids: Sequence[str], *, job_id: str) -> None:
        """Forward what is there of ``message_ids`` and still belongs to this job. Raises ``redis.RedisError``."""
        with self._lease(job_id):
            loaded = [stored for stored in self._store.load(message_ids) if stored is not None]
            # A message that a sweep has given to another job meanwhile is that job's to send.
            mine = [stored for stored in loaded if stored.state is State.WAITING and stored.job_id == job_id]
            ready = self._park_paused(mine)
            left = self._send_all(ready)
            self._store.requeue([stored.message.id for stored in left], only=State.WAITING)

    def _send_all(self, ready: list[StoredMessage]) -> list[StoredMessage]:
        """Send, at most ``concurrency`` at a time; returns those that were not begun."""
        started = time.monotonic()
        queue = list(reversed(ready))
        running: dict[Future[Outcome], StoredMessage] = {}
        sent: list[str] = []
        paused: set[str] = set()
        while queue or running:
            may_begin = time.monotonic() - started < START_SECONDS and not self._is_stopping()
            while may_begin and queue and len(running) < self._concurrency:
                stored = queue.pop()
                if stored.message.project_id in paused:
                    self._park([stored], until=time.time() + 1)
                    continue
                future = self._threads.submit(self._sender.send, stored, blips_until=started + START_SECONDS)
                running[future] = stored
            if not running:
                break
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                stored = running.pop(future)
                step = self._settle(stored, future.result())
                if step.action is Action.DELETE:
                    sent.append(stored.message.id)
                if step.pause_until is not None:
                    paused.add(stored.message.project_id)
            if len(sent) >= FLUSH_AT or (sent and not running):
                self._store.delete(sent)
                sent = []
        self._store.delete(sent)
        return list(reversed(queue))

    def _settle(self, stored: StoredMessage, outcome: Outcome) -> Step:
        message = stored.message
        step = next_step(
            outcome.verdict,
            attempts=stored.attempts,
            generation=stored.generation,
            accepted_at=message.accepted_at,
            now=time.time(),
            retry_after=outcome.retry_after,
            lifetime=self._lifetime,
            jitter=random.random(),  # noqa: S311
        )
        VERDICTS.labels(verdict=outcome.verdict.value).inc()
        bound = log.bind(message_id=message.id, project=message.project_id, attempts=step.attempts)
        way = f"{message.sender} → {', '.join(message.recipients)}"
        if step.action is Action.DELETE:
            DELIVERY_SECONDS.observe(time.time() - message.accepted_at)
            bound.info(f"Email relayed: {way}")
        elif step.action is Action.RETRY:
            if step.pause_until is not None:
                self._store.pause(message.project_id, step.pause_until)
            self._store.schedule_retry(
                message.id,
                job_id=stored.job_id,
                due=step.due,
                attempts=step.attempts,
                generation=step.generation,
                answer=outcome.answer,
            )
            reason = outcome.answer["message"]
            bound.warning(
                f"Email waits for another try: {way}", reason=reason, in_seconds=round(step.due - time.time(), 1)
            )
        else:
            self._store.bury(
                message.id,
                job_id=stored.job_id,
                died_at=time.time(),
                attempts=step.attempts,
                generation=step.generation,
                answer=outcome.answer,
            )
            bound.error(f"Email is a dead letter: {way}", reason=outcome.answer["message"], verdict=outcome.verdict)
        return step

    def _park_paused(self, messages: list[StoredMessage]) -> list[StoredMessage]:
        """Put the messages of rate-limited projects aside without a call; returns the others."""
        projects = sorted({stored.message.project_id for stored in messages})
        until = dict(zip(projects, self._store.paused_until(projects), strict=True))
        ready = []
        held: dict[str, list[StoredMessage]] = {}
        for stored in messages:
            if until[stored.message.project_id]:
                held.setdefault(stored.message.project_id, []).append(stored)
            else:
                ready.append(stored)
        for project_id, aside in held.items():
            self._park(aside, until=until[project_id] or 0.0)
        return ready

    def _park(self, messages: list[StoredMessage], *, until: float) -> None:
        slots = self._store.take_slots(messages[0].message.project_id, len(messages), not_before=until, pace=PARK_PACE)
        for stored, due in zip(messages, slots, strict=True):
            self._store.schedule_retry(
                stored.message.id,
                job_id=stored.job_id,
                due=due,
                attempts=stored.attempts,
                generation=stored.generation,
                answer=stored.last_answer,
            )

    @contextmanager
    def _lease(self, job_id: str) -> Iterator[None]:
        """Give a sign of life for the job until it ends, so that the sweep can tell a dead worker from a slow API."""
        done = threading.Event()

        def keep() -> None:
            while not done.wait(LEASE_SECONDS / 3):
                try:
                    self._store.lease(job_id, LEASE_SECONDS)
                except Exception as error:
                    log.warning("Sign of life failed", job=job_id, error=type(error).__name__)

        self._store.lease(job_id, LEASE_SECONDS)
        keeper = threading.Thread(target=keep, name="lease", daemon=True)
        keeper.start()
        try:
            yield
        finally:
            done.set()
            keeper.join()
            self._store.end_lease(job_id)


_installed: list[BatchForwarder] = []
# RQ calls its function by name with the job's arguments alone, so the process's forwarder must be found here.


def install(forwarder: BatchForwarder) -> None:
    """Make ``forwarder`` the one that this process's jobs use."""
    _installed[:] = [forwarder]


def forward_batch(message_ids: list[str]) -> None:
    """The function of every RQ job (``shared.message_store.FORWARD_FUNCTION``)."""
    job = get_current_job()
    if job is None or not _installed:
        raise RuntimeError("forward_batch runs in a forwarder's worker only")
    _installed[0].forward(message_ids, job_id=job.id)
