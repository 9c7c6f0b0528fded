"""Where RQ's stock worker and queue lose or repeat a job, or find it late; our mail is neither lost nor repeated.

Each window is hit by a hook at the exact point, on a real Redis. The stock classes are shown to fail first, so that an
override that a later RQ makes needless is noticed.
"""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
import zlib
from datetime import timedelta
from typing import Any

import pytest
import redis
from rq import Queue, Retry, SimpleWorker
from rq.intermediate_queue import IntermediateQueue
from rq.job import Job, JobStatus
from rq.registry import FailedJobRegistry, StartedJobRegistry
from rq.timeouts import JobTimeoutException, UnixSignalDeathPenalty

from forwarder.batch import START_SECONDS, BatchForwarder, install
from forwarder.housekeeping import Housekeeping
from forwarder.secrets import Secrets
from forwarder.sender import Sender
from forwarder.worker import ForwarderWorker
from sandbox.stack import Stack
from shared.message_store import JOB_TIMEOUT, RESULT_TTL, JsonSerializer, MessageStore
from shared.plunk_api import PlunkApi
from shared.queued_message import QueuedMessage, State, StoredMessage
from shared.settings import VARIABLES
from shared.verdict import Verdict
from tests.support import rq_jobs
from tests.support.mail import queued_message as message
from tests.support.rq_jobs import killed_worker

FAR = 10_000.0
"""Seconds: past every time limit of RQ's registries."""


def holders(connection: redis.Redis, job_id: str) -> set[str]:
    """The lists, sets and sorted sets under which a job can be found, but for those of a worker that is dead."""
    found = set()
    for key in connection.scan_iter():
        if b"executions" in key:
            continue
        read = {
            b"list": lambda k: connection.lrange(k, 0, -1),
            b"zset": lambda k: connection.zrange(k, 0, -1),
            b"set": connection.smembers,
        }.get(connection.type(key))  # type: ignore[arg-type]
        if read and any(job_id.encode() in member for member in read(key)):
            found.add(key.decode())
    return found


def stock_queue(store: MessageStore) -> Queue:
    return Queue("q", connection=store.redis, serializer=JsonSerializer)


def port_of(store: MessageStore) -> int:
    return int(store.redis.connection_pool.connection_kwargs["port"])


def run_stock(store: MessageStore, **options: Any) -> None:
    serializer = options.pop("serializer", JsonSerializer)
    SimpleWorker([store.queue], connection=store.redis, serializer=serializer).work(
        burst=True, logging_level="CRITICAL", **options
    )


def swept(store: MessageStore, one: QueuedMessage) -> bool:
    """Whether a new job comes by itself for the message, which waits for whatever job comes next."""
    assert store.queue.job_ids == []
    assert store.verify(patience=0).counts == {"waiting": 1}
    Housekeeping(store, batch_size=10).tick()
    return len(store.queue.job_ids) == 1 and store.take("next", 10) == [one.id]


def accepted(store: MessageStore, one: QueuedMessage) -> str:
    """The id of the job that came with a message."""
    store.accept([one])
    return str(store.queue.job_ids[-1])


def load(store: MessageStore, message_id: str) -> StoredMessage:
    stored = store.load([message_id])[0]
    assert isinstance(stored, StoredMessage)
    return stored


# Killed between the pop and the start


def test_stock_with_two_queues_loses_a_popped_job_for_good(store: MessageStore) -> None:
    job = stock_queue(store).enqueue("time.sleep", 0)
    killed_worker(port_of(store), "stock-two-queues", "after the pop")
    assert holders(store.redis, job.id) == set(), "nothing leads to the job any more"


def test_our_worker_has_one_queue_and_its_popped_job_is_found(store: MessageStore) -> None:
    one = message()
    job_id = accepted(store, one)
    assert len(ForwarderWorker(store.queue, connection=store.redis).queues) == 1
    killed_worker(port_of(store), "ours", "after the pop")
    assert "rq:queue:q:intermediate" in holders(store.redis, job_id)
    assert swept(store, one)


def test_our_message_is_found_even_where_rq_has_lost_its_job(store: MessageStore) -> None:
    one = message()
    job_id = accepted(store, one)
    killed_worker(port_of(store), "stock-two-queues", "after the pop")
    assert job_id not in str(holders(store.redis, job_id))
    assert swept(store, one)


# SIGTERM between the pop and the start


def stop_in_the_middle(worker: SimpleWorker, connection: redis.Redis) -> tuple[int, int]:
    """SIGTERM comes after the pop and before the start of a job: jobs left in (queue, intermediate list)."""
    real = worker.queue_class.dequeue_any

    class Interrupted(Queue):
        @classmethod
        def dequeue_any(cls, *args: Any, **options: Any) -> Any:
            found = real(*args, **options)
            os.kill(os.getpid(), signal.SIGTERM)
            return found

    worker.queue_class = Interrupted
    with handlers_kept():
        worker.work(logging_level="CRITICAL")
    return connection.llen("rq:queue:q"), connection.llen("rq:queue:q:intermediate")  # type: ignore[return-value]


class handlers_kept:
    """The handlers of SIGTERM and SIGINT are put back: a worker installs its own."""

    def __enter__(self) -> None:
        self._before = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)}

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)


def test_sigterm_between_pop_and_start_strands_a_job_in_the_stock_worker(store: MessageStore) -> None:
    store.queue.enqueue("time.sleep", 0)
    stock = SimpleWorker([store.queue], connection=store.redis, serializer=JsonSerializer)
    assert stop_in_the_middle(stock, store.redis) == (0, 1)


def test_sigterm_between_pop_and_start_lets_our_worker_finish_the_job(store: MessageStore) -> None:
    job = store.queue.enqueue("time.sleep", 0)
    worker = ForwarderWorker(store.queue, connection=store.redis)
    assert stop_in_the_middle(worker, store.redis) == (0, 0)
    assert job.is_finished
    assert worker.is_stopping


@pytest.mark.parametrize(("kind", "finished"), [(SimpleWorker, False), (ForwarderWorker, True)])
def test_a_second_sigterm_aborts_the_job_in_the_stock_worker_only(
    store: MessageStore, kind: type[SimpleWorker], finished: bool
) -> None:
    store.queue.enqueue(rq_jobs.stopped_twice, port_of(store), "finished")
    queues: Any = store.queue if kind is ForwarderWorker else [store.queue]
    worker = kind(queues, connection=store.redis, **({} if finished else {"serializer": JsonSerializer}))
    with handlers_kept():
        try:
            worker.work(logging_level="CRITICAL")
        except SystemExit:
            assert not finished
    assert store.redis.exists("finished") == finished


# Killed in the middle of registry maintenance


def abandoned(store: MessageStore, **options: Any) -> Job:
    """A job whose worker was killed while it ran."""
    job = stock_queue(store).enqueue(rq_jobs.die, **options)
    killed_worker(port_of(store), "stock")
    assert job.get_status() is JobStatus.STARTED
    store.redis.zadd("rq:wip:q", dict.fromkeys(store.redis.zrange("rq:wip:q", 0, -1), 1))
    return job


def test_a_kill_in_maintenance_blocks_stock_recovery_for_a_quarter_of_an_hour(store: MessageStore) -> None:
    killed_worker(port_of(store), "stock", "with the maintenance lock")
    assert store.redis.ttl(store.queue.registry_cleaning_key) > 800
    job = abandoned(store, retry=Retry(max=3))
    SimpleWorker([store.queue], connection=store.redis, serializer=JsonSerializer).clean_registries()
    assert holders(store.redis, job.id) == {"rq:wip:q"}
    store.redis.delete(store.queue.registry_cleaning_key)
    SimpleWorker([store.queue], connection=store.redis, serializer=JsonSerializer).clean_registries()
    assert "rq:queue:q" in holders(store.redis, job.id), "without the lock it would have been found"


def test_our_sweep_asks_for_no_lock_of_rqs(store: MessageStore) -> None:
    one = message()
    store.accept([one])
    killed_worker(port_of(store), "ours", "after the pop")
    store.redis.set(store.queue.registry_cleaning_key, 1, ex=899)
    assert swept(store, one)


# Retries with an interval


def test_stock_loses_a_job_that_dies_while_its_retry_is_scheduled(store: MessageStore) -> None:
    job = stock_queue(store).enqueue(rq_jobs.fail, retry=Retry(max=3, interval=60))
    killed_worker(port_of(store), "stock", "before the retry is scheduled")
    assert job.get_status() is JobStatus.SCHEDULED, "written outside the pipeline"
    StartedJobRegistry(queue=store.queue).cleanup(timestamp=time.time() + FAR)
    assert holders(store.redis, job.id) == set(), "scheduled nowhere, abandoned nowhere"


def test_our_retry_is_one_command(store: MessageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    one = message()
    job_id = accepted(store, one)
    job = store.queue.fetch_job(job_id)
    assert job is not None
    assert job.retries_left is None, "no retry of RQ's is used at all"
    assert store.take("j", 1) == [one.id]
    store.schedule_retry("warms up the script", job_id="", delay=1, attempts=1, generation=1, answer=None)
    commands: list[str] = []
    real = store.redis.execute_command

    def counted(*args: Any, **options: Any) -> Any:
        commands.append(str(args[0]))
        return real(*args, **options)

    monkeypatch.setattr(store.redis, "execute_command", counted)
    store.schedule_retry(one.id, job_id="j", delay=1, attempts=1, generation=1, answer=None)
    assert commands == ["EVALSHA"]
    assert load(store, one.id).state is State.RETRY
    assert store.verify(patience=0).mistakes == []


def test_stock_delays_need_a_scheduler_and_ours_do_not(store: MessageStore) -> None:
    store.queue.enqueue_in(timedelta(seconds=0), rq_jobs.count, port_of(store), "ran")
    run_stock(store)
    assert not store.redis.exists("ran"), "nobody moves what is due into the queue"
    one = message()
    store.accept([one])
    store.redis.delete(store.queue.key)
    store.take("j", 1)
    store.schedule_retry(one.id, job_id="j", delay=0, attempts=1, generation=1, answer=None)
    Housekeeping(store, batch_size=10).tick()
    assert len(store.queue.job_ids) == 1
    assert load(store, one.id).state is State.WAITING


# Redis fails after the job's work is done


class FailsAfterTheWork(SimpleWorker):
    """Redis is away for a moment, just when the job is done."""

    failures = 1

    def handle_job_success(self, *args: Any, **options: Any) -> None:
        if self.failures:
            self.failures -= 1
            raise redis.ConnectionError("away for a moment")
        super().handle_job_success(*args, **options)


def test_stock_repeats_a_job_that_was_done_when_redis_fails(store: MessageStore) -> None:
    store.queue.enqueue(rq_jobs.count, port_of(store), "sent", retry=Retry(max=3))
    FailsAfterTheWork([store.queue], connection=store.redis, serializer=JsonSerializer).work(
        burst=True, logging_level="CRITICAL"
    )
    assert store.redis.get("sent") == b"2"


@pytest.fixture
def mail(services: Stack) -> MessageStore:
    services.redis.client().flushall()
    services.api.reset()
    return MessageStore(services.redis.client(), "q")


def sender(services: Stack, *, timeout: float = 10) -> Sender:
    api = PlunkApi(services.api.url, connections=4)
    return Sender(api, Secrets(services.postgres.url), timeout=timeout, on_ambiguous="retry")


def forward_all(services: Stack, store: MessageStore) -> None:
    """Run our worker until the queue is empty."""
    install(BatchForwarder(store, sender(services), batch_size=10, concurrency=4, lifetime=86_400))
    with handlers_kept():
        ForwarderWorker(store.queue, connection=store.redis).work(burst=True, logging_level="CRITICAL")


@pytest.mark.parametrize("same_process", [True, False])
def test_our_mail_is_sent_once_when_redis_fails_after_the_send(
    services: Stack, mail: MessageStore, monkeypatch: pytest.MonkeyPatch, same_process: bool
) -> None:
    mail.accept([message()])
    real = mail.delete
    failures = [redis.ConnectionError("away for a moment")] * 2

    def delete(message_ids: list[str]) -> None:
        if message_ids and failures:
            raise failures.pop()
        real(message_ids)

    monkeypatch.setattr(mail, "delete", delete)
    forward_all(services, mail)
    assert len(services.api.sent()) == 1
    assert mail.depth().sending == 1
    # The same process remembers what it sent; another meets the message's own idempotency key.
    Housekeeping(mail, batch_size=10).tick()
    if same_process:
        ForwarderWorker(mail.queue, connection=mail.redis).work(burst=True, logging_level="CRITICAL")
    else:
        forward_all(services, mail)
    assert services.api.counts()["statuses"] == ({"200": 1} if same_process else {"200": 1, "409": 1})
    assert len(services.api.sent()) == 1
    assert mail.depth().undelivered == 0


# The same job twice


def test_stock_runs_a_repeated_job_id_twice_with_the_later_arguments(store: MessageStore) -> None:
    for key in ("first", "second"):
        store.queue.enqueue(rq_jobs.count, port_of(store), key, job_id="same")
    assert store.queue.job_ids == ["same", "same"]
    run_stock(store)
    assert store.redis.mget("first", "second") == [None, b"2"]


def test_our_message_that_two_jobs_come_for_is_sent_by_one_of_them(services: Stack, mail: MessageStore) -> None:
    mail.accept([message()])
    mail.queue.enqueue("forwarder.batch.forward_batch")
    assert len(mail.queue.job_ids) == 2
    forward_all(services, mail)
    counts = services.api.counts()
    assert (counts["requests"], len(services.api.sent())) == (1, 1)


# Crash recovery spends retries


def test_stock_gives_a_job_up_when_its_workers_were_killed_too_often(store: MessageStore) -> None:
    job = abandoned(store, retry=Retry(max=1))
    StartedJobRegistry(queue=store.queue).cleanup()
    assert (job.id in store.queue.job_ids, Job.fetch(job.id, store.redis, JsonSerializer).retries_left) == (True, 0)
    killed_worker(port_of(store), "stock")
    StartedJobRegistry(queue=store.queue).cleanup(timestamp=time.time() + FAR)
    assert store.queue.job_ids == []
    failed = FailedJobRegistry(queue=store.queue)
    assert failed.get_job_ids() == [job.id]
    forgotten_in = store.redis.zscore(failed.key, job.id) - time.time()
    assert 300 < forgotten_in / 86_400 < 400, "and forgets it after a year"


def test_our_message_outlives_its_job_given_up_by_rq(store: MessageStore) -> None:
    one = message()
    job_id = accepted(store, one)
    job = store.queue.fetch_job(job_id)
    assert job is not None
    assert job.retries_left is None, "there is nothing to spend"
    # As RQ leaves it in the end: in the registry of failed jobs, in no queue.
    store.redis.lrem(store.queue.key, 1, job_id)
    FailedJobRegistry(queue=store.queue).add(job, ttl=60)
    assert swept(store, one)


# Pickle


class Evil:
    """Unpickling this is running code."""

    def __init__(self, port: int) -> None:
        self._port = port

    def __reduce__(self) -> tuple[Any, ...]:
        return rq_jobs.count, (self._port, "broken into")


def poison(store: MessageStore, job_id: str) -> None:
    """As somebody does who can write to Redis."""
    store.redis.hset(f"rq:job:{job_id}", "data", zlib.compress(pickle.dumps(Evil(port_of(store)))))


def test_stock_runs_code_that_somebody_wrote_into_redis(store: MessageStore) -> None:
    job = Queue("q", connection=store.redis).enqueue("time.sleep", 0)
    poison(store, job.id)
    SimpleWorker(["q"], connection=store.redis).work(burst=True, logging_level="CRITICAL")
    assert store.redis.get("broken into")


def test_our_jobs_are_json_and_run_no_code(store: MessageStore) -> None:
    one = message()
    job_id = accepted(store, one)
    for key in store.redis.scan_iter():
        assert b"\x80\x04" not in (store.redis.dump(key) or b"")[:200], "no pickle lies in Redis"
    poison(store, job_id)
    with handlers_kept():
        ForwarderWorker(store.queue, connection=store.redis).work(burst=True, logging_level="CRITICAL")
    assert not store.redis.exists("broken into")
    store.redis.delete(store.queue.key)
    assert swept(store, one), "the mail itself is untouched"


# How soon a killed worker's mail is found


def test_our_workers_settings_bring_recovery_within_a_minute(store: MessageStore) -> None:
    """The settings stand in the class: whatever starts a worker, a pool included, cannot forget them."""
    stock = SimpleWorker([store.queue], connection=store.redis, serializer=JsonSerializer)
    worker = ForwarderWorker(store.queue, connection=store.redis)
    store.accept([message()])
    job = store.queue.fetch_job(store.queue.job_ids[0])
    assert job is not None
    assert stock.maintenance_interval == 600
    assert worker.maintenance_interval <= 5
    assert worker.get_heartbeat_ttl(job) == JOB_TIMEOUT + 5 < stock.get_heartbeat_ttl(job)
    assert worker.worker_ttl <= 17 < stock.worker_ttl


def test_stock_needs_two_passes_a_minute_apart_for_a_popped_job_and_we_one_round(store: MessageStore) -> None:
    one = message()
    job_id = accepted(store, one)
    killed_worker(port_of(store), "stock", "after the pop")
    stock = SimpleWorker([store.queue], connection=store.redis, serializer=JsonSerializer)
    intermediate = IntermediateQueue(store.queue.key, store.redis)
    for _ in range(3):
        intermediate.cleanup(stock, store.queue)
    assert store.queue.job_ids == [], "seen first, and again, and left alone"
    assert swept(store, one)
    store.redis.set(intermediate.get_first_seen_key(job_id), time.time() - 61)
    intermediate.cleanup(stock, store.queue)
    assert job_id in FailedJobRegistry(queue=store.queue).get_job_ids(), "RQ's own comes a minute later"


# Threads, timeouts and stopping


def test_stock_time_limits_work_in_the_main_thread_only_and_our_calls_have_their_own(
    services: Stack, mail: MessageStore
) -> None:
    caught: list[BaseException] = []

    def limited() -> None:
        try:
            with UnixSignalDeathPenalty(1, JobTimeoutException):
                pass
        except ValueError as error:
            caught.append(error)

    thread = threading.Thread(target=limited)
    thread.start()
    thread.join()
    assert "main thread" in str(caught[0])
    one = message()
    mail.accept([one])
    services.api.fail("hang", seconds=30)
    outcomes: list[Verdict] = []
    thread = threading.Thread(
        target=lambda: outcomes.append(
            sender(services, timeout=0.3).send(load(mail, one.id), blips_until=time.monotonic()).verdict
        )
    )
    thread.start()
    thread.join(20)
    services.api.clear_faults()
    assert outcomes == [Verdict.AGAIN], "a call that hangs comes back by itself, in whatever thread it is"


def test_a_job_always_ends_before_its_time_limit_and_before_heroku_kills() -> None:
    longest_call = VARIABLES["forward_timeout"].le
    assert longest_call
    assert START_SECONDS + longest_call < JOB_TIMEOUT < 30
    assert RESULT_TTL > 0, "deleting a result at once costs more than letting it expire"
