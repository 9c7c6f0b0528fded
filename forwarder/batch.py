"""One RQ job: a turn in which messages of all lanes go out at the same time, each with its own verdict."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import Any, Final, Protocol

import redis
from rq import get_current_job

from forwarder.next_step import Action, Step, next_step
from forwarder.sender import Outcome, Sender
from shared.log import get_logger
from shared.message_store import LEASE_SECONDS, MessageStore
from shared.metrics import DELIVERY_SECONDS, VERDICTS
from shared.plunk_api import RateLimit
from shared.queued_message import CodecError, QueuedMessage, StoredMessage
from shared.verdict import Verdict

START_SECONDS: Final = 10.0
"""Seconds into a job within which calls are begun. One request more is < JOB_TIMEOUT."""

LOOK_SECONDS: Final = 0.02
"""While calls are under way and hands are free, how often a job looks for messages that came meanwhile."""

DEFAULT_RATE: Final = 20.0
"""Messages a second of a project whose rate limit does not say its rate: the API's own default."""

FLUSH_AT: Final = 20
"""Sent messages that are forgotten in one step."""

UNREADABLE_SECONDS: Final = 900.0
"""Seconds until a message that this release cannot read is looked at again: a newer release may have queued it."""

log = get_logger(__name__)


class Aftermath(Protocol):
    """What a dead letter brings about besides itself."""

    def event(self, stored: StoredMessage, *, attempts: int, answer: dict[str, Any]) -> bytes:
        """The notification for the webhook, b"" for none."""
        ...

    def notice(self, stored: StoredMessage, *, attempts: int, answer: dict[str, Any]) -> QueuedMessage | None:
        """The non-delivery notice, None for none."""
        ...


class BatchForwarder:
    """Forwards messages for one worker process."""

    def __init__(
        self,
        store: MessageStore,
        sender: Sender,
        *,
        batch_size: int,
        concurrency: int,
        lifetime: float,
        aftermath: Aftermath | None = None,
        is_stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._store = store
        self._sender = sender
        self._batch_size = batch_size
        self._concurrency = concurrency
        # Some more stand in line for a thread, so that none waits while the store is written to.
        self._in_line = concurrency + concurrency // 2
        self._lifetime = lifetime
        self._aftermath = aftermath
        self._is_stopping = is_stopping
        self._threads = ThreadPoolExecutor(concurrency, thread_name_prefix="forward")
        self._sent: dict[str, None] = {}
        """Ids that the API took and the store still holds, in order."""
        self._job_id: str | None = None
        threading.Thread(target=self._keep_lease, name="lease", daemon=True).start()

    def forward(self, *, job_id: str) -> int:
        """Forward what waits until nothing does or the turn is over; how many went out. Raises ``redis.RedisError``."""
        with self._lease(job_id):
            self._forget()
            turn = _Turn()
            try:
                self._work_off(turn, job_id)
            finally:
                # When Redis failed in the middle, calls are still under way.
                for future in wait(turn.running).done:
                    outcome = future.result()
                    if outcome is not None and judged_sent(outcome):
                        self._sent[turn.running[future].message.id] = None
                self._forget()
            self._store.give_back([stored.message.id for stored in turn.queue], job_id=job_id)
        return turn.count

    def _forget(self) -> None:
        """Delete what went out. While Redis cannot, this process remembers, and sends none of it again."""
        if self._sent:
            self._store.delete(self._sent)
            self._sent.clear()

    def _work_off(self, turn: _Turn, job_id: str) -> None:
        started = time.monotonic()
        looked = -LOOK_SECONDS
        while True:
            may_begin = time.monotonic() - started < START_SECONDS and not self._is_stopping()
            has_hands_free = len(turn.queue) + len(turn.running) < self._in_line
            # Not again at once where there was nothing to take.
            if may_begin and has_hands_free and (turn.found or time.monotonic() - looked >= LOOK_SECONDS):
                looked = time.monotonic()
                turn.queue += self._take(job_id, turn)
            while may_begin and turn.queue and len(turn.running) < self._in_line:
                stored = turn.queue.popleft()
                turn.begun(self._threads.submit(self._send, turn, stored, started + START_SECONDS), stored)
            if not turn.running:
                return
            for future in turn.finished(LOOK_SECONDS):
                stored = turn.running.pop(future)
                outcome = future.result()
                if outcome is None:
                    if stored.message.project_id in turn.held:
                        self._store.give_back([stored.message.id], job_id=job_id)
                    else:
                        turn.queue.append(stored)
                    continue
                if judged_sent(outcome):
                    self._sent[stored.message.id] = None
                    turn.count += 1
                step = self._settle(stored, outcome)
                if step.pause is not None or outcome.rate is not None:
                    self._heed_rate(turn, stored, step, outcome.rate)
            if len(self._sent) >= FLUSH_AT or not turn.running:
                self._forget()

    def _send(self, turn: _Turn, stored: StoredMessage, until: float) -> Outcome | None:
        """None when the turn was over, or its project held back, before this one's turn came."""
        if time.monotonic() >= until or self._is_stopping() or stored.message.project_id in turn.held:
            return None
        try:
            return self._sender.send(stored, blips_until=until)
        except Exception as error:
            # A defect of ours is this message's trouble alone: it is tried again like any other.
            log.exception("Sending failed by a defect", message_id=stored.message.id)
            words = f"defect of the relay: {type(error).__name__}"
            answer = {"at": time.time(), "status": None, "code": "", "message": words}
            return Outcome(verdict=Verdict.AGAIN, answer=answer)

    def _take(self, job_id: str, turn: _Turn) -> list[StoredMessage]:
        ids = self._store.take(job_id, self._batch_size)
        turn.found = bool(ids)
        taken: list[StoredMessage] = []
        for message_id, stored in zip(ids, self._store.load(ids) if ids else [], strict=True):
            if isinstance(stored, CodecError):
                log.error("Message cannot be read, it waits for a newer release", message_id=message_id)
                self._store.schedule_retry(
                    message_id,
                    job_id=job_id,
                    delay=UNREADABLE_SECONDS,
                    attempts=0,
                    generation=1,
                    answer={"at": time.time(), "status": None, "code": "", "message": str(stored)},
                )
            elif stored is not None and message_id not in self._sent:
                # Its lane has its turn again, so its project may send again.
                turn.held.discard(stored.message.project_id)
                taken.append(stored)
        return taken

    def _settle(self, stored: StoredMessage, outcome: Outcome) -> Step:
        message = stored.message
        step = next_step(
            outcome.verdict,
            attempts=stored.attempts,
            generation=stored.generation,
            age=time.time() - stored.lifetime_from,
            retry_after=outcome.retry_after,
            lifetime=self._lifetime,
            jitter=random.random(),  # noqa: S311
        )
        VERDICTS.labels(verdict=outcome.verdict.value).inc()
        bound = log.bind(message_id=message.id, project=message.project_id, attempts=step.attempts)
        way = f"{message.sender} → {', '.join(message.recipients)}"
        reason = outcome.answer["message"]
        if step.action is Action.DELETE:
            DELIVERY_SECONDS.observe(time.time() - message.accepted_at)
            bound.info(f"Email relayed: {way}")
        elif step.action is Action.WAIT_TURN:
            self._store.give_back([message.id], job_id=stored.job_id)
            bound.info(f"Email waits for its project's rate limit: {way}", in_seconds=step.pause)
        elif step.action is Action.RETRY:
            self._store.schedule_retry(
                message.id,
                job_id=stored.job_id,
                delay=step.delay,
                attempts=step.attempts,
                generation=step.generation,
                answer=outcome.answer,
            )
            bound.warning(f"Email waits for another try: {way}", reason=reason, in_seconds=round(step.delay, 1))
        else:
            event, notice = self._told(stored, step, outcome)
            self._store.bury(
                message.id,
                job_id=stored.job_id,
                attempts=step.attempts,
                generation=step.generation,
                answer=outcome.answer,
                event=event,
                notice=notice,
            )
            bound.error(f"Email is a dead letter: {way}", reason=reason, verdict=outcome.verdict)
        return step

    def _told(self, stored: StoredMessage, step: Step, outcome: Outcome) -> tuple[bytes, QueuedMessage | None]:
        """What is told of a dead letter: the webhook's event and the sender's notice."""
        after = self._aftermath
        if after is None:
            return b"", None
        try:
            event = after.event(stored, attempts=step.attempts, answer=outcome.answer)
            # Where the outcome is unknown the mail may have gone out: nobody is told that it did not.
            if outcome.verdict is Verdict.HELD:
                return event, None
            return event, after.notice(stored, attempts=step.attempts, answer=outcome.answer)
        except Exception:
            log.exception("Nobody is told of a dead letter", message_id=stored.message.id)
            return b"", None

    def _heed_rate(self, turn: _Turn, stored: StoredMessage, step: Step, rate: RateLimit | None) -> None:
        """Hold the project back when it was refused for its rate, or is about to be."""
        project_id = stored.message.project_id
        under_way = sum(other.message.project_id == project_id for other in turn.running.values())
        if step.pause is None and (rate is None or rate.remaining > max(under_way, self._concurrency // 2)):
            return
        may_go = 0 if step.pause is not None or rate is None else max(0, rate.remaining - under_way)
        per_second = (rate.per_second if rate else None) or DEFAULT_RATE
        self._store.slow_down(
            project_id,
            pause=0.0 if step.pause is None else step.pause,
            rate=per_second,
            refused=step.pause is not None,
        )
        if step.pause is not None:
            turn.held.add(project_id)
        kept: deque[StoredMessage] = deque()
        held: list[str] = []
        seen = Counter[str]()
        for other in turn.queue:
            seen[other.message.project_id] += 1
            if other.message.project_id == project_id and seen[project_id] > may_go:
                held.append(other.message.id)
            else:
                kept.append(other)
        if held:
            turn.queue = kept
            self._store.give_back(held, job_id=stored.job_id)

    @contextmanager
    def _lease(self, job_id: str) -> Iterator[None]:
        """Give signs of life for the job until it ends, so that the sweep can tell a dead worker from a slow API."""
        self._job_id = job_id
        try:
            yield
        finally:
            self._job_id = None
            self._store.end_lease(job_id)

    def _keep_lease(self) -> None:
        while True:
            time.sleep(LEASE_SECONDS / 3)
            job_id = self._job_id
            if job_id is not None:
                try:
                    self._store.renew_lease(job_id)
                except redis.RedisError as error:
                    log.warning("Sign of life failed", job=job_id, error=type(error).__name__)


class _Turn:
    """What one job has in hand."""

    def __init__(self) -> None:
        self.queue: deque[StoredMessage] = deque()
        self.running: dict[Future[Outcome | None], StoredMessage] = {}
        self.held: set[str] = set()
        """Projects that were refused for their rate: what stands in line for a thread is not sent."""
        self.count = 0
        self.found = True
        self._finished: SimpleQueue[Future[Outcome | None]] = SimpleQueue()

    def begun(self, future: Future[Outcome | None], stored: StoredMessage) -> None:
        self.running[future] = stored
        # concurrent.futures.wait would lock every future of the turn at each look.
        future.add_done_callback(self._finished.put)

    def finished(self, seconds: float) -> Iterator[Future[Outcome | None]]:
        """Calls that have ended; waits at most ``seconds`` for the first."""
        with suppress(Empty):
            yield self._finished.get(timeout=seconds)
            while True:
                yield self._finished.get_nowait()


def judged_sent(outcome: Outcome) -> bool:
    """Whether the API has the mail, so that the message's life is over."""
    return outcome.verdict is Verdict.SENT


_installed: list[BatchForwarder] = []
# RQ calls its function by name with the job's arguments alone, so the process's forwarder must be found here.


def install(forwarder: BatchForwarder) -> None:
    """Make ``forwarder`` the one that this process's jobs use."""
    _installed[:] = [forwarder]


def forward_batch(message_ids: Sequence[str] = ()) -> None:
    """The function of every RQ job (``shared.message_store.FORWARD_FUNCTION``).

    ``message_ids`` is what the first release's jobs carried; those messages are in their lanes by now.
    """
    job = get_current_job()
    if job is None or not _installed:
        raise RuntimeError("forward_batch runs in a forwarder's worker only")
    _installed[0].forward(job_id=job.id)
