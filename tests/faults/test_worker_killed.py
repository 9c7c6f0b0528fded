"""SIGKILL at every instant of a message's way through the forwarder: all arrive, none twice, within a minute."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass, field
from typing import Final

import pytest

from sandbox.processes import wait_until
from sandbox.stack import Stack
from shared.message_store import MessageStore
from tests.faults.conftest import Settle, fresh_relay
from tests.support.kill_switch import Instant, KillSwitch
from tests.support.mail import queued_message

JOBS: Final = 4
MESSAGES_PER_JOB: Final = 3

FEW_AT_ONCE: Final = {"BATCH_SIZE": "3", "FORWARD_CONCURRENCY": "3"}
"""So that there is something left for the other worker."""

Arrange = Callable[[Stack, MessageStore, str], list[str]]
"""Puts mail into a relay's store, with subjects that begin with a prefix; returns the subjects."""


def accepted(_: Stack, store: MessageStore, prefix: str) -> list[str]:
    """Jobs as the ingress leaves them."""
    subjects = []
    for job in range(JOBS):
        batch = [queued_message(f"{prefix}{job}.{number}") for number in range(MESSAGES_PER_JOB)]
        store.accept(batch)
        subjects += [message.subject for message in batch]
    return subjects


def accepted_while_the_api_defers(stack: Stack, store: MessageStore, prefix: str) -> list[str]:
    """The same, and the API puts three of them off."""
    stack.api.fail("status", status=408, times=3, subject=prefix)
    return accepted(stack, store, prefix)


def accepted_while_the_api_limits(stack: Stack, store: MessageStore, prefix: str) -> list[str]:
    """The same, and the API says once that the project is too quick."""
    stack.api.fail("status", status=429, retry_after=1, times=1, subject=prefix)
    return accepted(stack, store, prefix)


def accepted_while_the_api_refuses(stack: Stack, store: MessageStore, prefix: str) -> list[str]:
    """The same, and the API refuses one of them: a dead letter."""
    stack.api.fail("status", status=402, times=1, subject=prefix)
    return accepted(stack, store, prefix)


def accepted_while_the_api_works(stack: Stack, store: MessageStore, prefix: str) -> list[str]:
    """The same, and the API takes a second over the first four."""
    stack.api.fail("latency", seconds=1, times=4, subject=prefix)
    return accepted(stack, store, prefix)


def accepted_large(_: Stack, store: MessageStore, prefix: str) -> list[str]:
    """Messages whose bodies lie in pieces."""
    batch = [queued_message(f"{prefix}{number}", text="<p>x</p>" * 200_000) for number in range(MESSAGES_PER_JOB + 1)]
    assert all(len(store.kinds_of(message.body)) > 1 for message in batch)
    store.accept(batch)
    return [message.subject for message in batch]


def without_a_job(_: Stack, store: MessageStore, prefix: str) -> list[str]:
    """Messages that no RQ job announces: nothing but the housekeeper brings them on."""
    batch = [queued_message(f"{prefix}{number}") for number in range(MESSAGES_PER_JOB)]
    store.accept(batch, with_ticket=False)
    return [message.subject for message in batch]


def in_dead_hands(stack: Stack, store: MessageStore, prefix: str) -> list[str]:
    """Messages that a job without a sign of life has in hand."""
    subjects = without_a_job(stack, store, prefix)
    assert len(store.take("gone", len(subjects), lease=0.001)) == len(subjects)
    return subjects


def due_retries(stack: Stack, store: MessageStore, prefix: str) -> list[str]:
    """Messages whose next attempt is due."""
    subjects = without_a_job(stack, store, prefix)
    for message_id in store.take("gone", len(subjects), lease=0.001):
        assert store.schedule_retry(message_id, job_id="gone", delay=0, attempts=1, generation=1, answer=None)
    return subjects


@dataclass(frozen=True, slots=True)
class Kill:
    """One row: who dies where, with which mail in the store."""

    instant: Instant
    arrange: Arrange = accepted
    _: KW_ONLY
    workers: int = 1
    victims: int = 1
    kills_parent: bool = False
    """The forwarder's parent dies: the platform starts it again."""
    has_dead_letter: bool = False
    """One message dies of what the API says, and a person has it tried again."""


def instant(name: str, function: str, when: str, call: int = 1) -> Instant:
    module, _, function = function.partition(":")
    return Instant(name=name, module=module, function=function, when=when, call=call)  # type: ignore[arg-type]


def in_store(name: str, step: str, when: str) -> Instant:
    return instant(name, f"shared.message_store:MessageStore.{step}", when)


def in_rq(name: str, step: str, when: str) -> Instant:
    return instant(name, f"rq.worker.base:BaseWorker.{step}", when)


_POPPED = instant(
    "after the pop, before the job", "forwarder.worker:ForwarderWorker.dequeue_job_and_maintain_ttl", "after"
)
_MID_REQUEST = instant(
    "mid-request: asked, not answered", "urllib3.connection:HTTPConnection.getresponse", "before", call=2
)
_ANSWERED = instant("after the API's 200, before the bookkeeping", "shared.plunk_api:PlunkApi.send", "after", call=2)
_DELETED = in_store("after the sent were deleted", "delete", "after")

KILLS: Final = (
    # With a single worker, the one that dies is all of them.
    Kill(_POPPED),
    Kill(in_rq("after RQ wrote the execution", "prepare_execution", "after")),
    Kill(in_rq("after RQ wrote that it began", "prepare_job_execution", "after")),
    Kill(in_store("before it took messages in hand", "take", "before")),
    Kill(in_store("after it took messages in hand", "take", "after")),
    Kill(instant("before the first request", "shared.plunk_api:PlunkApi.send", "before")),
    Kill(_MID_REQUEST, accepted_while_the_api_works),
    Kill(_ANSWERED),
    Kill(in_store("before the sent are deleted", "delete", "before")),
    Kill(_DELETED),
    Kill(in_store("before a retry is written", "schedule_retry", "before"), accepted_while_the_api_defers),
    Kill(in_store("after a retry was written", "schedule_retry", "after"), accepted_while_the_api_defers),
    Kill(in_store("before messages wait for their turn", "give_back", "before"), accepted_while_the_api_limits),
    Kill(in_store("before their project is held back", "slow_down", "before"), accepted_while_the_api_limits),
    Kill(in_store("before a dead letter is written", "bury", "before"), accepted_while_the_api_refuses),
    Kill(
        in_store("after a dead letter was written", "bury", "after"),
        accepted_while_the_api_refuses,
        has_dead_letter=True,
    ),
    Kill(in_store("before the lease ends", "end_lease", "before")),
    Kill(in_store("after the lease ended", "end_lease", "after")),
    Kill(in_rq("before RQ writes success", "handle_job_success", "before")),
    Kill(in_rq("after RQ wrote success", "handle_job_success", "after")),
    # Bodies in pieces.
    Kill(in_store("in the middle of reading a large body", "_joined", "before"), accepted_large),
    Kill(
        instant("after the API's 200 for a large message", "shared.plunk_api:PlunkApi.send", "after", call=2),
        accepted_large,
    ),
    # One of two, the other lives on; then both.
    Kill(_POPPED, workers=2),
    Kill(_ANSWERED, workers=2),
    Kill(_ANSWERED, workers=2, victims=2),
    Kill(_MID_REQUEST, accepted_while_the_api_works, workers=2, victims=2),
    # The parent's own work.
    *(
        Kill(in_store(name, step, when), mail, kills_parent=True)
        for name, step, when, mail in (
            ("before it promotes due retries", "promote_due", "before", due_retries),
            ("after it promoted due retries", "promote_due", "after", due_retries),
            ("before it takes from dead hands", "recover", "before", in_dead_hands),
            ("after it took from dead hands", "recover", "after", in_dead_hands),
            ("before it adds jobs for waiting mail", "add_tickets", "before", without_a_job),
            ("after it added jobs for waiting mail", "add_tickets", "after", without_a_job),
        )
    ),
)


def label(kill: Kill) -> str:
    if kill.kills_parent:
        return f"Forwarder's parent killed {kill.instant.name}"
    who = {(1, 1): "All workers", (2, 1): "One worker of two", (2, 2): "Both workers"}[kill.workers, kill.victims]
    return f"{who} killed {kill.instant.name}"


@dataclass(slots=True)
class Run:
    """A kill under way: with a queue and a forwarder of its own."""

    kill: Kill
    stack: Stack
    switch: KillSwitch
    prefix: str
    subjects: list[str] = field(default_factory=list)

    def start(self) -> None:
        with self.stack.redis.client() as client:
            self.subjects = self.kill.arrange(self.stack, MessageStore(client, self.stack.queue_name), self.prefix)
        self.stack.forwarder.process.start()


@pytest.fixture(scope="module")
def runs(services: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Run]]:
    """All kills at once: what takes time is the waiting until the lost are found, so they wait side by side."""
    services.api.reset()
    begun: dict[str, Run] = {}
    try:
        for number, kill in enumerate(KILLS):
            switch = KillSwitch(kill.instant, tmp_path_factory.mktemp("switch") / "tokens", kill.victims)
            stack = fresh_relay(services, tmp_path_factory, workers=kill.workers, **FEW_AT_ONCE, **switch.environ)
            begun[label(kill)] = Run(kill=kill, stack=stack, switch=switch, prefix=f"kill{number}-")
        for run in begun.values():
            run.start()
        yield begun
    finally:
        for run in begun.values():
            run.stack.stop()


@pytest.mark.parametrize("kill", KILLS, ids=label)
def test_a_kill_loses_nothing_and_sends_nothing_twice(runs: dict[str, Run], kill: Kill, books: Settle) -> None:
    run = runs[label(kill)]
    wait_until(lambda: run.switch.is_spent, timeout=60, what=f"the kill {kill.instant.name}", poll=0.1)
    if kill.kills_parent:
        wait_until(lambda: not run.stack.forwarder.process.is_running(), timeout=10, what="the parent's end")
        run.stack.forwarder.process.start()
    if kill.has_dead_letter:
        with run.stack.redis.client() as client:
            store = MessageStore(client, run.stack.queue_name)
            wait_until(store.dead_ids, timeout=60, what="a dead letter", poll=0.1)
            assert store.requeue(store.dead_ids()) == 1
    books(label(kill), run.stack, run.subjects, prefix=run.prefix)
    run.stack.forwarder.process.stop()
