"""One job's turn over a real Redis, the API's answers chosen: what each message's fate does to the others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from forwarder import batch
from forwarder.batch import BatchForwarder
from forwarder.sender import Outcome
from forwarder.worker import ForwarderWorker
from sandbox.processes import wait_until
from sandbox.stack import Stack
from shared.message_store import MessageStore
from shared.plunk_api import RateLimit
from shared.queued_message import State, StoredMessage
from shared.verdict import Verdict
from tests.support.mail import queued_message
from tests.support.stacks import started

message = partial(queued_message, project_id="p")


def outcome(verdict: Verdict, *, rate: RateLimit | None = None, retry_after: float | None = None) -> Outcome:
    answer = {"at": time.time(), "status": None, "code": "", "message": "as the test says"}
    return Outcome(verdict=verdict, answer=answer, rate=rate, retry_after=retry_after)


class Api:
    """Says what ``answer`` says, and remembers what it was asked."""

    def __init__(self, answer: Callable[[StoredMessage], Outcome]) -> None:
        self._answer = answer
        self.asked: list[str] = []

    def send(self, stored: StoredMessage, *, blips_until: float) -> Outcome:
        self.asked.append(stored.message.id)
        return self._answer(stored)


def turn(store: MessageStore, answer: Callable[[StoredMessage], Outcome], **options: Any) -> Api:
    api = Api(answer)
    forwarder = BatchForwarder(
        store,
        api,  # type: ignore[arg-type]
        **{"batch_size": 50, "concurrency": 4, "lifetime": 86_400, **options},
    )
    forwarder.forward(job_id="j")
    return api


def test_a_turn_takes_on_until_nothing_waits(store: MessageStore) -> None:
    store.accept([message() for _ in range(230)])
    assert len(turn(store, lambda _: outcome(Verdict.SENT)).asked) == 230
    assert store.verify(patience=0).counts == {}
    assert not store.redis.exists(store.lease_key("j"))


def test_mail_that_comes_while_a_slow_call_is_under_way_does_not_wait_for_it(store: MessageStore) -> None:
    slow, late = message(), message(project_id="other")
    store.accept([slow])
    came = threading.Event()

    def answer(stored: StoredMessage) -> Outcome:
        if stored.message.id == slow.id:
            store.accept([late])
            assert came.wait(20), "the late message was not begun"
        else:
            came.set()
        return outcome(Verdict.SENT)

    assert turn(store, answer).asked == [slow.id, late.id]


def test_a_message_that_cannot_be_read_and_one_that_meets_a_defect_hold_nobody_up(store: MessageStore) -> None:
    unreadable, defect, *good = batch = [message() for _ in range(10)]
    store.accept(batch)
    store.redis.hset(store.message_key(unreadable.id), "envelope", b'{"v": 99}')

    def answer(stored: StoredMessage) -> Outcome:
        if stored.message.id == defect.id:
            raise KeyError("a mistake of ours")
        return outcome(Verdict.SENT)

    asked = turn(store, answer).asked
    assert set(asked) == {defect.id, *(one.id for one in good)}
    assert store.depth().retries == 2
    assert store.verify(patience=0).counts == {"retry": 2}
    (tried,) = store.load([defect.id])
    assert isinstance(tried, StoredMessage)
    assert (tried.state, tried.attempts) == (State.RETRY, 1)


def test_a_stop_gives_back_what_was_not_begun(store: MessageStore) -> None:
    store.accept([message() for _ in range(30)])
    stop = threading.Event()

    def answer(_: StoredMessage) -> Outcome:
        stop.set()
        return outcome(Verdict.SENT)

    begun = len(turn(store, answer, concurrency=2, is_stopping=stop.is_set).asked)
    assert 1 <= begun <= 3
    assert store.verify(patience=0).counts == {"waiting": 30 - begun}


def test_a_429_holds_its_own_project_back_and_spends_no_attempt(store: MessageStore) -> None:
    store.accept([message(project_id="limited") for _ in range(40)] + [message(project_id="free") for _ in range(40)])
    limit = RateLimit(limit=50, remaining=0, reset=3)

    def answer(stored: StoredMessage) -> Outcome:
        if stored.message.project_id == "limited":
            return outcome(Verdict.AGAIN_PAUSED, retry_after=30, rate=limit)
        return outcome(Verdict.SENT)

    asked = turn(store, answer).asked
    assert 41 <= len(asked) <= 48, "all of the free, and of the limited what was under way at once"
    assert store.verify(patience=0).counts == {"waiting": 40}
    ids = [value.decode() for value in store.redis.zrange(store.lane_key("limited"), 0, -1)]  # type: ignore[union-attr]
    assert all(isinstance(one, StoredMessage) and one.attempts == 0 for one in store.load(ids))
    due = store.redis.zscore("q:parked", "limited")
    assert due is not None
    assert due - store.redis.time()[0] > 20


def test_an_answer_that_tells_of_the_limits_end_slows_the_project_before_a_429(store: MessageStore) -> None:
    store.accept([message(project_id="near") for _ in range(60)] + [message(project_id="free") for _ in range(10)])
    left = [10]

    def answer(stored: StoredMessage) -> Outcome:
        if stored.message.project_id == "free":
            return outcome(Verdict.SENT)
        left[0] -= 1
        return outcome(Verdict.SENT, rate=RateLimit(limit=10, remaining=max(0, left[0]), reset=100))

    asked = turn(store, answer, concurrency=2).asked
    near = len(asked) - 10
    assert 8 <= near <= 12, "what was left, give or take what was under way"
    assert store.depth().waiting == 60 - near
    assert float(store.redis.hget("q:pace:near", "rate") or 0) == pytest.approx(0.1, abs=0.03)


@pytest.mark.parametrize("error", [redis.ConnectionError("away for a moment"), redis.ResponseError("WRONGTYPE")])
def test_a_job_that_redis_leaves_is_told_without_the_traceback_of_a_defect(
    store: MessageStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: redis.RedisError
) -> None:
    def forward(job_id: str) -> None:
        raise error

    monkeypatch.setattr(batch, "_installed", [SimpleNamespace(forward=forward)])
    monkeypatch.setattr(ForwarderWorker, "_install_signal_handlers", lambda self: None)
    store.accept([message()])
    ForwarderWorker(store.queue, connection=store.redis).work(burst=True, logging_level="WARNING")
    tracebacks = [record for record in caplog.records if "Traceback" in record.getMessage() or record.exc_info]
    assert len(tracebacks) == isinstance(error, redis.ResponseError)


def test_a_worker_stays_through_a_restart_of_redis(tmp_path: Path) -> None:
    """It remembers what it sent while Redis was away, so it must not be another process afterwards."""
    with started(Stack(tmp_path, tls=False), forwarder=True) as stack:
        workers = stack.forwarder.process.children
        wait_until(lambda: len(workers()) == 1, timeout=30, what="the worker")
        before = workers()
        wait_until(
            lambda: stack.redis.client().scard("rq:workers:plunk-smtp") == 1, timeout=30, what="a worker that waits"
        )
        stack.redis.kill()
        wait_until(lambda: "going on" in stack.forwarder.output(), timeout=30, what="a worker that noticed")
        stack.redis.start()
        store = MessageStore(stack.redis.client(), "plunk-smtp")
        store.accept([queued_message()])
        wait_until(stack.api.sent, timeout=30, what="the mail")
        assert workers() == before
        assert stack.forwarder.process.stop() == 0
