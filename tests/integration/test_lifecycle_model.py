"""The life of a message as a model: any order of steps, deaths at any instant, against a real Redis.

The store, the batch forwarder, the worker and the housekeeping are the real ones. The clock is the model's, and so is
the API: ``Plunk`` keeps the contract of idempotency keys and decides by script what becomes of a call. A process dies
between any two steps of its talk with Redis (``tests.support.mortal``).

The longer run: ``MODEL_EXAMPLES=2000 python -m pytest tests/integration/test_lifecycle_model.py``.
"""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from types import SimpleNamespace

import pytest
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

import forwarder.batch
import forwarder.housekeeping
import shared.message_store
from forwarder.batch import BatchForwarder, install
from forwarder.housekeeping import Housekeeping
from forwarder.sender import Outcome
from forwarder.worker import ForwarderWorker
from sandbox.redis_server import RedisServer
from shared.message_store import MessageStore
from shared.plunk_api import Answer, NoAnswer
from shared.queued_message import StoredMessage
from shared.verdict import judge
from tests.support.mail import queued_message
from tests.support.mortal import Killed, Life, mortal_client

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
        words = {"at": shared.message_store.time.time(), "status": status, "code": "", "message": script}
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
    """The worker without its listener for RQ's commands, whose thread would spend steps by chance."""

    death_penalty_class = NoDeathPenalty

    def subscribe(self) -> None:
        pass

    def unsubscribe(self) -> None:
        pass

    def _install_signal_handlers(self) -> None:
        pass


class Lifecycle(RuleBasedStateMachine):
    """Each rule is one thing that happens; the invariants hold after each."""

    server: RedisServer

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_700_000_000.0
        self._patch = pytest.MonkeyPatch()
        clock = SimpleNamespace(time=lambda: self.now, monotonic=lambda: self.now, sleep=time.sleep)
        for module in (shared.message_store, forwarder.batch, forwarder.housekeeping):
            self._patch.setattr(module, "time", clock)
        self.client = self.server.client()
        self.client.flushall()
        self.store = MessageStore(self.client, QUEUE)
        self.plunk = Plunk()
        self.accepted: dict[str, None] = {}
        self.discarded: set[str] = set()
        self.housekeeping = Housekeeping(self.store, batch_size=BATCH)

    @initialize()
    def load_scripts(self) -> None:
        """Once, so that whether a script is known to Redis does not change how many steps a process makes."""
        for script in (self.store._slots, self.store._assign, self.store._retry, self.store._bury):
            self.client.script_load(script.script)

    # Ingress

    @rule(count=st.integers(1, 6), project=st.sampled_from("pq"))
    def accept(self, count: int, project: str) -> None:
        self._accept(count, project, ALIVE)

    @rule(count=st.integers(1, 6), project=st.sampled_from("pq"), death=deaths(SHORT))
    def accept_and_die(self, count: int, project: str, death: Death) -> None:
        self._accept(count, project, death)

    def _accept(self, count: int, project: str, death: Death) -> None:
        batch = [queued_message("m", project_id=project, accepted_at=self.now) for _ in range(count)]
        client = mortal_client(self.server, Life(*death))
        try:
            MessageStore(client, QUEUE).accept(batch)
        except Killed:
            there = [stored is not None for stored in self.store.load([message.id for message in batch])]
            assert len(set(there)) == 1, "a transaction is there as a whole or not at all"
            if not there[0]:
                return
        finally:
            client.connection_pool.disconnect()
        self.accepted |= {message.id: None for message in batch}

    # Forwarder

    @rule(scripts=st.lists(SCRIPT, min_size=1, max_size=4))
    def work(self, scripts: list[str]) -> None:
        """A worker takes one job as RQ's loop does."""
        self._work(scripts, ALIVE)

    @rule(scripts=st.lists(SCRIPT, min_size=1, max_size=4), death=deaths(LONG))
    def work_and_die(self, scripts: list[str], death: Death) -> None:
        self._work(scripts, death)

    @rule(scripts=st.lists(SCRIPT, min_size=1, max_size=4), when=st.sampled_from(("before", "after")))
    def work_and_stall(self, scripts: list[str], when: str) -> None:
        """A worker is stalled at its first call, before or after the API did it, until others have taken over."""
        self._work(scripts, ALIVE, interlude=when)

    def _work(self, scripts: list[str], death: Death, *, interlude: str | None = None) -> None:
        client = mortal_client(self.server, Life(*death))
        store = MessageStore(client, QUEUE)
        sender = ScriptedSender(self.plunk, scripts, interlude, self._take_over)
        batch = BatchForwarder(store, sender, concurrency=1, lifetime=LIFETIME)  # type: ignore[arg-type]
        install(batch)
        try:
            QuietWorker(store.queue, connection=client).work(burst=True, max_jobs=1, logging_level="CRITICAL")
        except Killed:
            pass
        finally:
            batch._threads.shutdown()
            client.connection_pool.disconnect()

    def _take_over(self) -> None:
        """Meanwhile the stalled worker's lease ends, the sweep finds its messages, and another worker runs all jobs."""
        self.leases_end()
        self.now += 60
        self.housekeeping.sweep()
        self.housekeeping.sweep()
        self._run_jobs("ok")

    def _run_jobs(self, script: str) -> None:
        sender = ScriptedSender(self.plunk, [script], None, lambda: None)
        batch = BatchForwarder(self.store, sender, concurrency=1, lifetime=LIFETIME)  # type: ignore[arg-type]
        try:
            while (job_id := self.client.lpop(self.store.queue.key)) is not None:
                job = self.store.queue.fetch_job(job_id.decode())
                assert job is not None
                batch.forward(job.args[0], job_id=job.id)
        finally:
            batch._threads.shutdown()

    @rule(death=st.one_of(st.just(ALIVE), deaths(SHORT)))
    def promote(self, death: Death) -> None:
        self._mortally(death, lambda housekeeping: housekeeping._store.promote_due(self.now, batch_size=BATCH))

    @rule(death=st.one_of(st.just(ALIVE), deaths(2 * SHORT)))
    def sweep(self, death: Death) -> None:
        self._mortally(death, lambda housekeeping: (housekeeping.sweep(), housekeeping.sweep()))

    def _mortally(self, death: Death, act: Callable[[Housekeeping], object]) -> None:
        client = mortal_client(self.server, Life(*death))
        try:
            act(Housekeeping(MessageStore(client, QUEUE), batch_size=BATCH))
        except Killed:
            pass
        finally:
            client.connection_pool.disconnect()

    @rule()
    def leases_end(self) -> None:
        """As ten seconds do to the leases of those who died or are stalled."""
        for key in self.client.scan_iter(match=f"{QUEUE}:lease:*"):
            self.client.delete(key)

    @rule(seconds=st.sampled_from((1, 11, 60, 900, 7200, 90_000)))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds
        for project in ("p", "q"):
            until = self.client.get(self.store.pause_key(project))
            if until and float(until) <= self.now:
                self.client.delete(self.store.pause_key(project))

    @rule(project=st.sampled_from("pq"), seconds=st.integers(1, 3600))
    def pause(self, project: str, seconds: int) -> None:
        self.store.pause(project, self.now + seconds)

    # A person

    @precondition(lambda self: self.accepted)
    @rule(death=st.one_of(st.just(ALIVE), deaths(SHORT)), data=st.data())
    def retry_by_hand(self, death: Death, data: st.DataObject) -> None:
        """Of dead letters as a list showed them a while ago: by now one may be gone, or on its way again."""
        one = list(self.accepted)[data.draw(st.integers(0, len(self.accepted) - 1))]
        ids = [*self.store.dead_ids()[:BATCH], one]
        self._mortally(death, lambda housekeeping: housekeeping._store.requeue(ids))

    @precondition(lambda self: self.store.dead_ids())
    @rule(death=st.one_of(st.just(ALIVE), deaths(1)))
    def discard_dead(self, death: Death) -> None:
        ids = self.store.dead_ids()[:1]
        self._mortally(death, lambda housekeeping: housekeeping._store.delete(ids))
        self.discarded |= {i for i, stored in zip(ids, self.store.load(ids), strict=True) if stored is None}

    # What holds at any time

    @invariant()
    def each_message_is_in_one_place(self) -> None:
        assert self.store.verify() == []
        kept = {key.decode().removeprefix(self.store.message_key("")) for key in self.client.keys(f"{QUEUE}:message:*")}
        sent = {message_id for message_id, _ in self.plunk.sent}
        assert kept <= self.accepted.keys(), "nobody accepted these"
        assert self.accepted.keys() - kept <= sent | self.discarded, "gone without having been sent"

    @invariant()
    def no_key_sends_twice(self) -> None:
        assert not [key for key, count in Counter(self.plunk.sent).items() if count > 1]
        times: defaultdict[str, int] = defaultdict(int)
        for message_id, _ in self.plunk.sent:
            times[message_id] += 1
        for message_id, count in times.items():
            assert count <= 1 + self.plunk.spent[message_id], "a mail went out twice without the API's own doing"

    def teardown(self) -> None:
        try:
            self._everything_arrives()
        finally:
            self._patch.undo()
            self.client.close()

    def _everything_arrives(self) -> None:
        """The trouble is over: within a minute and a retry's delay every message goes out."""
        for _ in range(20):
            self.leases_end()
            self.time_passes(7200)
            self.housekeeping.sweep()
            self.housekeeping.sweep()
            while self.store.promote_due(self.now, batch_size=BATCH):
                pass
            self.store.requeue(self.store.dead_ids())
            self._run_jobs("ok")
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

    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Machine,
        settings=settings(
            max_examples=int(os.environ.get("MODEL_EXAMPLES", "120")),
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
