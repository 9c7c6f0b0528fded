"""The message store's steps against a real Redis."""

from __future__ import annotations

import signal
import time

import pytest
from rq.exceptions import StopRequested

from forwarder.housekeeping import Housekeeping
from forwarder.worker import ForwarderWorker
from sandbox.redis_server import RedisServer
from shared.message_store import MessageStore
from shared.queued_message import QueuedMessage, State, StoredMessage, new_message_id

ANSWER = {"at": 1.0, "status": 503, "code": "", "message": "down"}


@pytest.fixture
def store(empty_redis: RedisServer) -> MessageStore:
    return MessageStore(empty_redis.client(), "q")


def message(**changes: object) -> QueuedMessage:
    fields: dict[str, object] = {
        "id": new_message_id(),
        "project_id": "p",
        "sender": "a@example.com",
        "recipients": ("b@x.example",),
        "envelope_from": "a@example.com",
        "accepted_at": time.time(),
        "body": b"{}",
    }
    return QueuedMessage(**{**fields, **changes})  # type: ignore[arg-type]


def load(store: MessageStore, message_id: str) -> StoredMessage:
    stored = store.load([message_id])[0]
    assert stored is not None
    return stored


def test_a_batch_is_accepted_in_one_job(store: MessageStore) -> None:
    batch = [message(digest=f"d{n}") for n in range(10)]
    job_id = store.accept(batch, remember_seconds=60)
    assert store.queue.job_ids == [job_id]
    job = store.queue.fetch_job(job_id)
    assert job is not None
    assert job.args == [[one.id for one in batch]]
    assert store.seen_many(["d3", "other"]) == {"d3": batch[3].id}
    assert store.depth().waiting == 10
    assert store.verify() == []


def test_the_life_of_a_message_that_waits_dies_and_is_retried(store: MessageStore) -> None:
    one = message()
    job_id = store.accept([one])
    assert store.schedule_retry(one.id, job_id=job_id, due=1000, attempts=1, generation=2, answer=ANSWER)
    assert (load(store, one.id).state, load(store, one.id).generation) == (State.RETRY, 2)
    assert store.verify() == []
    assert store.promote_due(999, batch_size=10) == 0
    assert store.promote_due(1000, batch_size=10) == 1
    again = load(store, one.id)
    assert again.state is State.WAITING
    assert store.bury(one.id, job_id=again.job_id, died_at=2000, attempts=2, generation=2, answer=ANSWER)
    assert store.dead_ids() == [one.id]
    assert load(store, one.id).last_answer == ANSWER
    assert store.depth().undelivered == 0
    assert store.verify() == []
    store.requeue([one.id])
    assert store.dead_ids() == []
    assert store.depth().oldest_accepted_at is not None
    assert store.verify() == []
    store.delete([one.id])
    assert store.load([one.id]) == [None]
    assert store.verify() == []


def test_a_worker_that_wakes_up_late_changes_nothing(store: MessageStore) -> None:
    one, gone = message(), message()
    old_job = store.accept([one, gone])
    store.requeue([one.id])
    store.delete([gone.id])
    for late in (one, gone):
        assert not store.schedule_retry(late.id, job_id=old_job, due=1, attempts=9, generation=9, answer=None)
        assert not store.bury(late.id, job_id=old_job, died_at=1, attempts=9, generation=9, answer=None)
    store.requeue([gone.id])
    assert store.load([gone.id]) == [None]
    assert load(store, one.id).attempts == 0
    assert store.verify() == []


def test_verify_finds_what_stands_in_two_places_or_none(store: MessageStore) -> None:
    one, two = message(), message()
    store.accept([one, two])
    store.redis.zadd("q:dead", {one.id: 1})
    store.redis.zrem("q:waiting", two.id)
    store.redis.zadd("q:retries", {"ghost": 1})
    assert [line.split(":")[0] for line in store.verify()] == sorted([one.id, two.id, "ghost"])


def test_a_message_without_a_live_job_is_found_and_queued_again(store: MessageStore) -> None:
    lost, leased, queued = message(), message(), message()
    lost_job, leased_job, queued_job = (store.accept([one]) for one in (lost, leased, queued))
    # As a kill between the pop and the start of a job leaves it, and as a running job looks.
    store.redis.lrem(store.queue.key, 1, lost_job)
    store.redis.lrem(store.queue.key, 1, leased_job)
    store.lease(leased_job, 60)
    later = time.time() + 60
    assert store.queue.job_ids == [queued_job]
    assert store.orphans(later) == [lost.id]
    housekeeping = Housekeeping(store, batch_size=10)
    store.redis.zadd("q:waiting", {lost.id: 1})
    assert housekeeping.sweep() == 0, "once seen is not yet lost"
    assert housekeeping.sweep() == 1
    assert load(store, lost.id).job_id in store.queue.job_ids
    assert store.verify() == []


def test_a_deep_backlog_has_no_orphans(store: MessageStore) -> None:
    for _ in range(50):
        store.accept([message() for _ in range(20)])
    assert store.orphans(time.time() + 3600) == []


def test_slots_of_a_rate_limited_project_are_spread(store: MessageStore) -> None:
    assert store.take_slots("p", 3, not_before=100, pace=10) == pytest.approx([100.1, 100.2, 100.3])
    assert store.take_slots("p", 1, not_before=100, pace=10) == pytest.approx([100.4])
    assert store.take_slots("p", 1, not_before=200, pace=10) == pytest.approx([200.1])


def test_a_stopping_worker_takes_no_further_job(store: MessageStore) -> None:
    store.queue.enqueue("time.sleep", 0)
    worker = ForwarderWorker(store.queue, connection=store.redis)
    worker.request_stop(signal.SIGTERM, None)
    with pytest.raises(StopRequested):
        worker.dequeue_job_and_maintain_ttl(1)
    assert len(store.queue.job_ids) == 1
