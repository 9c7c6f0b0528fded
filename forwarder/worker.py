"""RQ's SimpleWorker without its windows of loss, and with fewer commands a job."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import redis
from redis.client import Pipeline
from rq import Queue, SimpleWorker
from rq.exceptions import DequeueTimeout, StopRequested
from rq.job import Job
from rq.worker import WorkerStatus

from forwarder.redis_outage import Outage, is_outage
from shared.log import get_logger

WORKER_TTL: Final = 16
"""Seconds; RQ blocks for new jobs 15 s less than this, so a stop is noticed within about a second."""

MAINTENANCE_SECONDS: Final = 5
HEARTBEAT_SECONDS: Final = 5.0
"""At most one heartbeat in this time outside a transaction: heartbeats were 29 % of a job's socket traffic."""

AGAIN_SECONDS: Final = 1.0
"""Pause after trouble with Redis."""

log = get_logger(__name__)


class ForwarderWorker(SimpleWorker):
    """One queue only: with several, RQ pops without its intermediate list, and a killed worker's job is gone."""

    def __init__(self, queue: Queue, *, stop: threading.Event | None = None, **options: Any) -> None:
        # A pool hands its workers no settings, so they stand here.
        super().__init__(
            [queue],
            serializer=queue.serializer,
            worker_ttl=WORKER_TTL,
            maintenance_interval=MAINTENANCE_SECONDS,
            job_monitoring_interval=5,
            log_job_description=False,
            **options,
        )
        self._last_beat = 0.0
        self.outage: redis.RedisError | None = None
        """What ended this worker's work, when Redis was lost."""
        # A process may use one worker after another (see run_for_ever): a stop is meant for all of them.
        self._stop = stop or threading.Event()

    @property
    def is_stopping(self) -> bool:
        return self._stop.is_set()

    def _install_signal_handlers(self) -> None:
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, self.request_stop)

    def subscribe(self) -> None:
        """No ear for RQ's commands: a forwarder is stopped by stopping it.

        It would be one thread and one connection more, which RQ leaves behind when a worker loses Redis.
        """

    def request_stop(self, signum: int, frame: Any) -> None:
        """Only set the flag: RQ's own raises between the pop of a job and its start, which strands the job."""
        self._stop_requested = True
        self._stop.set()

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[Job, Queue] | None:
        """The next job. Raises ``StopRequested`` between jobs, never while one is in hand."""
        self._state = WorkerStatus.IDLE
        with self._until_outage():
            while not self._stop.is_set():
                self.heartbeat()
                if self.should_run_maintenance_tasks:
                    self.run_maintenance_tasks()
                try:
                    found: tuple[Job, Queue] | None = self.queue_class.dequeue_any(
                        self._ordered_queues,
                        timeout,
                        connection=self.connection,
                        job_class=self.job_class,
                        serializer=self.serializer,
                        death_penalty_class=self.death_penalty_class,
                    )
                except DequeueTimeout:
                    continue
                if found is not None:
                    found[0].redis_server_version = self.get_redis_server_version()  # type: ignore[no-untyped-call]
                return found
        raise StopRequested

    def execute_job(self, job: Job, queue: Queue) -> None:
        with self._until_outage():
            super().execute_job(job, queue)
            # RQ's loop does so next, and would take trouble with it for a defect.
            self.heartbeat()

    @contextmanager
    def _until_outage(self) -> Iterator[None]:
        """Raises ``StopRequested`` when Redis is lost: RQ's loop ends at that without the traceback of a defect."""
        try:
            yield
        except redis.RedisError as error:
            if not is_outage(error):
                raise
            self.outage = error
            raise StopRequested from error

    def handle_exception(self, job: Job, *exc_info: Any) -> None:
        """A job that ended because Redis was away is no defect either; what it had in hand is found by its lease."""
        if is_outage(exc_info[1]):
            log.error("Worker lost Redis in a job", job=job.id, error=exc_info[0].__name__)
        else:
            super().handle_exception(job, *exc_info)

    def teardown(self) -> None:
        try:
            super().teardown()  # type: ignore[no-untyped-call]
        except redis.RedisError as error:
            # The worker's key expires by itself.
            self.outage = self.outage or error

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        if pipeline is None:
            if time.monotonic() - self._last_beat < HEARTBEAT_SECONDS:
                return
            self._last_beat = time.monotonic()
        super().heartbeat(timeout, pipeline=pipeline)

    def set_state(self, state: str, pipeline: Pipeline | None = None) -> None:
        if pipeline is None:
            self._state = state
        else:
            super().set_state(state, pipeline=pipeline)

    def check_for_suspension(self, burst: bool) -> None:
        """Not asked before every job; a forwarder is stopped by stopping it."""

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:
        """The job's own time and a little: RQ's minute on top would be a minute of waiting after a crash."""
        return int(job.timeout or WORKER_TTL) + 5

    def run_maintenance_tasks(self) -> None:
        try:
            super().run_maintenance_tasks()  # type: ignore[no-untyped-call]
        except redis.RedisError as error:
            log.warning("RQ maintenance failed", error=type(error).__name__)


def run_for_ever(queue: Queue, stop: threading.Event) -> None:
    """Work until ``stop``. RQ's worker ends at any trouble with Redis: another one then goes on in this process.

    The process stays, since it remembers what it sent while Redis could not be told.
    """
    outage = Outage()
    while not stop.is_set():
        try:
            worker = ForwarderWorker(queue, stop=stop)
            worker.work(logging_level="WARNING")
            # It had Redis: what ended it is new.
            outage.end()
            lost = worker.outage
        except redis.RedisError as error:
            lost = error
        if stop.is_set():
            return
        if lost is None:
            log.error("Worker ended by a defect, going on", in_seconds=AGAIN_SECONDS)
        elif outage.is_news(lost):
            log.error("Worker lost Redis, going on when it answers", error=type(lost).__name__)
        stop.wait(AGAIN_SECONDS)
