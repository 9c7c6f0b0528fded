"""The life of a message as a model: any order of steps, deaths at any instant, against a real Redis.

The store, the batch forwarder, the worker and the housekeeping are the real ones. The clock is the model's, and so is
the API: ``Plunk`` keeps the contract of idempotency keys and decides by script what becomes of a call. A process dies
between any two steps of its talk with Redis (``tests.support.mortal``).

The longer run: ``MODEL_EXAMPLES=2000 python -m pytest tests/integration/test_lifecycle_model.py``.
"""

from __future__ import annotations

import os
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import orjson
import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from rq.timeouts import BaseDeathPenalty

from forwarder.batch import BatchForwarder, install
from forwarder.housekeeping import Housekeeping
from forwarder.sender import Outcome
from forwarder.worker import ForwarderWorker
from sandbox.redis_server import RedisServer
from shared import store_scripts
from shared.message_store import MessageStore
from shared.plunk_api import Answer, NoAnswer
from shared.queued_message import StoredMessage
from shared.verdict import judge
from tests.support.mail import queued_message
from tests.support.mortal import Killed, Life, mortal_client
from tests.support.store_clock import StoreClock, without_fsync

QUEUE = "model"
LIFETIME = 86_400.0
BATCH = 4

SCRIPT = st.sampled_from(
    (
        "ok",
        "answer lost",
        "refused",
        "503",
        "still running",
        "5xx after the work",
        "429",
        "429 for an hour",
        "402",
        "402",
        "401",
    )
)
Death = tuple[int | None, float]
ALIVE: Death = (None, 0.0)


def deaths(longest: int) -> st.SearchStrategy[Death]:
    """Steps that a process lives at most so long, and how much of its last words it still sends."""
    return st.tuples(st.integers(0, longest), st.sampled_from((0.0, 0.5, 0.9)))


SHORT, LONG = 4, 90
"""Steps of one transaction with its preparation, and of a worker with one job."""

PIECE_BYTES = 40
"""So small that the model's bodies are large ones, each of two or three pieces."""


SCRIPTS = st.lists(SCRIPT, min_size=1, max_size=4)


class Plunk:
    """The API's side: what it sent and which keys it holds."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str]] = []
        """(message id, idempotency key), never shortened."""
        self.keys: dict[str, int | None] = {}
        self.spent: Counter[str] = Counter()
        """Message id → how often its mail went out and the API said 5xx: each allows one mail more, by contract."""

    def call(self, stored: StoredMessage, script: str) -> Answer | NoAnswer:
        key = stored.idempotency_key
        if key in self.keys:
            return Answer(status=409, code="IDEMPOTENCY_KEY_REUSED", original_status=self.keys[key])
        if script == "refused":
            return NoAnswer(cause="ConnectionError")
        if script == "still running":
            return Answer(status=409, code="IDEMPOTENCY_KEY_REUSED", original_status=None)
        if script == "503":
            return Answer(status=503)
        if script.startswith("429"):
            return Answer(status=429, retry_after=3600 if "hour" in script else None)
        if script in ("401", "402"):
            return Answer(status=int(script), message="no")
        assert orjson.loads(stored.message.body)["subject"] == "m", "a body came whole"
        self.sent.append((stored.message.id, key))
        self.keys[key] = 500 if script == "5xx after the work" else 200
        if script == "5xx after the work":
            self.spent[stored.message.id] += 1
            return Answer(status=500)
        return NoAnswer(cause="ReadTimeout") if script == "answer lost" else Answer(status=200)


class ScriptedSender:
    """``Sender`` without a network: one scripted answer a call, in order, the last for all that follow."""

    def __init__(self, plunk: Plunk, scripts: list[str], interlude: str | None, others: Callable[[], None]) -> None:
        self._plunk, self._scripts, self._others = plunk, scripts, others
        self._interlude = interlude
        self._calls = 0

    def send(self, stored: StoredMessage, *, blips_until: float) -> Outcome:
        script = self._scripts[min(self._calls, len(self._scripts) - 1)]
        self._calls += 1
        interlude, self._interlude = self._interlude, None
        if interlude == "before":
            self._others()
        answer = self._plunk.call(stored, script)
        if interlude == "after":
            self._others()
        verdict = judge(answer, secret_is_fresh=True)
        status = answer.status if isinstance(answer, Answer) else None
        words = {"at": 0.0, "status": status, "code": "", "message": script}
        return Outcome(
            verdict=verdict, answer=words, retry_after=answer.retry_after if isinstance(answer, Answer) else None
        )


class NoDeathPenalty(BaseDeathPenalty):  # type: ignore[misc]
    """RQ's timeout is an alarm signal, which the tests' own timeout needs."""

    def setup_death_penalty(self) -> None:
        pass

    def cancel_death_penalty(self) -> None:
        pass


class QuietWorker(ForwarderWorker):
    """The worker without signals: it runs in the test's own process."""

    death_penalty_class = NoDeathPenalty

    def _install_signal_handlers(self) -> None:
        pass


class Lifecycle(RuleBasedStateMachine):
    """Each rule is one thing that happens; the invariants hold after each."""

    server: RedisServer

    def __init__(self) -> None:
        super().__init__()
        self._patch = pytest.MonkeyPatch()
        self.client = self.server.client()
        self.client.flushall()
        self.clock = StoreClock(self.client, self._patch)
        self.store = MessageStore(self.client, QUEUE)
        self.plunk = Plunk()
        self.accepted: dict[str, None] = {}
        self.discarded: set[str] = set()

    @initialize()
    def load_scripts(self) -> None:
        """Once, so that whether a script is known to Redis does not change how many steps a process makes."""
        for name, script in vars(store_scripts).items():
            if name.isupper() and isinstance(script, str):
                self.client.script_load(script)

    # Ingress

    @rule(count=st.integers(1, 6), project=st.sampled_from("pq"))
    def accept(self, count: int, project: str) -> None:
        self._accept(count, project, ALIVE)

    @rule(count=st.integers(1, 6), project=st.sampled_from("pq"), death=deaths(SHORT))
    def accept_and_die(self, count: int, project: str, death: Death) -> None:
        self._accept(count, project, death)

    @rule(count=st.integers(1, 3), project=st.sampled_from("pq"), death=st.one_of(st.just(ALIVE), deaths(6 * SHORT)))
    def accept_large(self, count: int, project: str, death: Death) -> None:
        """Bodies in pieces; a death may come between any two of them."""
        self._accept(count, project, death, piece_bytes=PIECE_BYTES)

    def _accept(self, count: int, project: str, death: Death, **options: int) -> None:
        batch = [queued_message("m", project_id=project, accepted_at=self.clock.now) for _ in range(count)]
        batch = [replace(message, digest=message.id) for message in batch]
        client = mortal_client(self.server, Life(*death))
        try:
            MessageStore(client, QUEUE, **options).accept(batch, remember_seconds=600)
        except Killed:
            there = [stored is not None for stored in self.store.load([message.id for message in batch])]
            assert len(set(there)) == 1, "a group is there as a whole or not at all"
            if not there[0]:
                return
        finally:
            client.connection_pool.disconnect()
        self.accepted |= {message.id: None for message in batch}

    @precondition(lambda self: self.accepted)
    @rule(data=st.data())
    def accept_a_repeat(self, data: st.DataObject) -> None:
        """A client that did not hear its 250, or heard a 451 for what Redis took after all, sends again."""
        first = list(self.accepted)[data.draw(st.integers(0, len(self.accepted) - 1))]
        again = queued_message("m", project_id="p", accepted_at=self.clock.now, digest=first)
        store = MessageStore(self.client, QUEUE, piece_bytes=data.draw(st.sampled_from((PIECE_BYTES, 10_000))))
        assert store.accept([again], remember_seconds=600).ids == [first]
        assert store.load([again.id]) == [None]
        assert not self.client.exists(store.body_key(again.id))

    # Forwarder

    @rule(scripts=SCRIPTS)
    def work(self, scripts: list[str]) -> None:
        """A worker takes one job as RQ's loop does."""
        self._work(scripts, Life(None))

    @rule(scripts=SCRIPTS, death=deaths(LONG))
    def work_and_die(self, scripts: list[str], death: Death) -> None:
        self._work(scripts, Life(*death))

    @rule(scripts=SCRIPTS, begin=st.integers(1, LONG), steps=st.integers(1, LONG))
    def work_without_redis_for_a_while(self, scripts: list[str], begin: int, steps: int) -> None:
        self._work(scripts, Life(None, outage=range(begin, begin + steps)))

    @rule(scripts=SCRIPTS, when=st.sampled_from(("before", "after")))
    def work_and_stall(self, scripts: list[str], when: str) -> None:
        """A worker is stalled at its first call, before or after the API did it, until others have taken over."""
        self._work(scripts, Life(None), interlude=when)

    def _work(self, scripts: list[str], life: Life, *, interlude: str | None = None) -> None:
        client = mortal_client(self.server, life)
        store = MessageStore(client, QUEUE)
        batch = self._forwarder(store, ScriptedSender(self.plunk, scripts, interlude, self._take_over))
        install(batch)
        try:
            QuietWorker(store.queue, connection=client).work(burst=True, max_jobs=1, logging_level="CRITICAL")
        except (Killed, redis.RedisError):
            pass
        finally:
            batch._threads.shutdown()
            client.connection_pool.disconnect()

    @staticmethod
    def _forwarder(store: MessageStore, sender: ScriptedSender) -> BatchForwarder:
        return BatchForwarder(store, sender, batch_size=BATCH, concurrency=1, lifetime=LIFETIME)  # type: ignore[arg-type]

    def _take_over(self) -> None:
        """Meanwhile the stalled worker's lease ends, its messages go back, and another worker sends all there are."""
        self.leases_end()
        self.time_passes(60)
        self.store.recover()
        self._send_all()

    def _send_all(self) -> None:
        batch = self._forwarder(self.store, ScriptedSender(self.plunk, ["ok"], None, lambda: None))
        try:
            batch.forward(job_id=uuid.uuid4().hex)
        finally:
            batch._threads.shutdown()

    @rule(death=st.one_of(st.just(ALIVE), deaths(3 * SHORT)))
    def keep_house(self, death: Death) -> None:
        """A round of the housekeeper; its lock is free, as it is some seconds after the last one died."""
        self.client.delete(f"{QUEUE}:housekeeper")
        self._mortally(death, lambda store: Housekeeping(store, batch_size=BATCH).tick())

    def _mortally(self, death: Death, act: Callable[[MessageStore], object]) -> None:
        client = mortal_client(self.server, Life(*death))
        try:
            act(MessageStore(client, QUEUE))
        except Killed:
            pass
        finally:
            client.connection_pool.disconnect()

    @rule()
    def leases_end(self) -> None:
        """As ten seconds do to the leases of those who died or are stalled."""
        for key in self.client.scan_iter(match=f"{QUEUE}:lease:*"):
            self.client.delete(key)

    @rule(seconds=st.sampled_from((1, 11, 60, 900, 7200, 90_000, -7200)))
    def time_passes(self, seconds: int) -> None:
        """Or a clock is put back, for a negative number."""
        self.clock.advance(seconds)
        if seconds >= 60:
            for key in self.client.scan_iter(match=f"{QUEUE}:pace:*"):
                self.client.delete(key)

    @rule(project=st.sampled_from("pq"), seconds=st.integers(0, 3600), refused=st.booleans())
    def slow_down(self, project: str, seconds: int, refused: bool) -> None:
        self.store.slow_down(project, pause=seconds, rate=20, refused=refused)

    # A person

    @precondition(lambda self: self.accepted)
    @rule(death=st.one_of(st.just(ALIVE), deaths(SHORT)), data=st.data())
    def retry_by_hand(self, death: Death, data: st.DataObject) -> None:
        """Of dead letters as a list showed them a while ago: by now one may be gone, or on its way again."""
        one = list(self.accepted)[data.draw(st.integers(0, len(self.accepted) - 1))]
        ids = [*self.store.dead_ids()[:BATCH], one]
        self._mortally(death, lambda store: store.requeue(ids))

    @precondition(lambda self: self.store.dead_ids())
    @rule(death=st.one_of(st.just(ALIVE), deaths(1)))
    def discard_dead(self, death: Death) -> None:
        ids = self.store.dead_ids()[:1]
        self._mortally(death, lambda store: store.delete(ids))
        self.discarded |= {i for i, stored in zip(ids, self.store.load(ids), strict=True) if stored is None}

    # What holds at any time

    @invariant()
    def each_message_is_in_one_place(self) -> None:
        mistakes = self.store.verify(patience=0).mistakes
        # Between a death and the housekeeper's next round these two are so, and no mail is lost by it.
        passing = ("is being sent by a job without a sign of life", "messages wait, but there is neither a job")
        assert not [line for line in mistakes if not any(text in line for text in passing)]
        kept = {key.decode().removeprefix(self.store.message_key("")) for key in self.client.keys(f"{QUEUE}:message:*")}
        sent = {message_id for message_id, _ in self.plunk.sent}
        assert kept <= self.accepted.keys(), "nobody accepted these"
        assert self.accepted.keys() - kept <= sent | self.discarded, "gone without having been sent"

    @invariant()
    def no_key_sends_twice(self) -> None:
        assert not [key for key, count in Counter(self.plunk.sent).items() if count > 1]
        times = Counter(message_id for message_id, _ in self.plunk.sent)
        for message_id, count in times.items():
            assert count <= 1 + self.plunk.spent[message_id], "a mail went out twice without the API's own doing"

    def teardown(self) -> None:
        try:
            self._everything_arrives()
        finally:
            self._patch.undo()
            self.client.close()

    def _everything_arrives(self) -> None:
        """The trouble is over: what is left goes out, and nothing remains."""
        for _ in range(20):
            self.leases_end()
            self.time_passes(7200)
            self.keep_house(ALIVE)
            self.store.requeue(self.store.dead_ids())
            self._send_all()
            if not self.store.depth().undelivered and not self.store.dead_ids():
                break
        self.each_message_is_in_one_place()
        self.no_key_sends_twice()
        assert {message_id for message_id, _ in self.plunk.sent} | self.discarded >= self.accepted.keys()
        assert self.store.depth().undelivered == 0
        assert self.store.dead_ids() == []


def test_the_life_of_a_message_in_any_order_with_any_death(redis_server: RedisServer) -> None:
    class Machine(Lifecycle):
        server = redis_server

    with without_fsync(redis_server):
        run_state_machine_as_test(  # type: ignore[no-untyped-call]
            Machine,
            settings=settings(
                max_examples=int(os.environ.get("MODEL_EXAMPLES", "60")),
                stateful_step_count=30,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
