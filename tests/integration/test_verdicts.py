"""Every row of the verdict table reached by a real forwarder: what the API did to a message, and what became of it.

The messages go through the relay side by side, each with a fault of its own at the API.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from sandbox.processes import wait_until
from sandbox.stack import Stack
from shared.message_store import MessageStore
from shared.queued_message import StoredMessage
from shared.verdict import RULES
from tests.support.wire import Wire, simple

Fault = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One message: what the API does to its calls in turn, and what becomes of it."""

    rule: str
    """Name of the row in ``shared.verdict.RULES``; "no answer" for what is no answer at all."""
    faults: list[Fault] = field(default_factory=list)
    dead: str = ""
    """How the dead letter's words begin; "" for mail that arrives."""
    key: str = ""
    """What follows the message's id in the idempotency key with which it arrived."""
    hold: bool = False
    """On the relay with ON_AMBIGUOUS=hold and a short MESSAGE_LIFETIME."""


def status(code: int, **more: Any) -> Fault:
    return {"kind": "status", "status": code, "times": 1, "message": f"answered {code}", **more}


CASES = {
    "200": Case(rule="2xx"),
    "answer lost after the work": Case(
        rule="409, the first request ended in 2xx", faults=[{"kind": "drop_after", "times": 1}]
    ),
    "500 after part of the work": Case(
        rule="409, the first request ended in 5xx",
        faults=[{"kind": "status_after", "status": 500, "times": 1}],
        key=".2",
    ),
    "500 after part of the work, held": Case(
        rule="409, the first request ended in 5xx",
        faults=[{"kind": "status_after", "status": 500, "times": 1}],
        dead="Idempotency-Key was used before",
        hold=True,
    ),
    "slow": Case(
        rule="409, the first request is still running", faults=[{"kind": "latency", "seconds": 9, "times": 1}]
    ),
    "429": Case(rule="429", faults=[status(429, retry_after=1)]),
    "408": Case(rule="408, 425", faults=[status(408)]),
    "425": Case(rule="408, 425", faults=[status(425)]),
    "401 once": Case(rule="401", faults=[status(401)]),
    "401 for good": Case(rule="401", faults=[status(401), status(401)], dead="answered 401"),
    "400": Case(rule="other 4xx", faults=[status(400)], dead="answered 400"),
    "402": Case(rule="other 4xx", faults=[status(402)], dead="answered 402"),
    "403": Case(rule="other 4xx", faults=[status(403)], dead="answered 403"),
    "404": Case(rule="other 4xx", faults=[status(404)], dead="answered 404"),
    "413": Case(rule="other 4xx", faults=[status(413)], dead="answered 413"),
    "422": Case(rule="other 4xx", faults=[status(422)], dead="answered 422"),
    "302": Case(rule="anything else", faults=[status(302)]),
    "500": Case(rule="anything else", faults=[status(500)]),
    "502": Case(rule="anything else", faults=[status(502)]),
    "503": Case(rule="anything else", faults=[status(503)]),
    "504": Case(rule="anything else", faults=[status(504)]),
    "connection lost": Case(rule="no answer", faults=[{"kind": "drop", "times": 1}]),
    "500 past its lifetime": Case(rule="anything else", faults=[status(500, times=-1)], dead="answered 500", hold=True),
    "hangs past its lifetime": Case(
        rule="no answer", faults=[{"kind": "hang", "seconds": 30}], dead="the API did not answer", hold=True
    ),
}


@dataclass(frozen=True, kw_only=True)
class Fate:
    """What became of one message."""

    message_id: str
    mails: list[dict[str, Any]]
    dead: StoredMessage | None
    verdicts: list[str]
    """The events of the forwarder's log about it."""


@pytest.fixture(scope="module")
def fates(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Fate]]:
    """All messages of ``CASES`` sent at once through two relays over the same servers; what became of each."""
    first = Stack(tmp_path_factory.mktemp("retry"), tls=False, FORWARD_TIMEOUT="2")
    second = Stack(
        tmp_path_factory.mktemp("hold"),
        tls=False,
        services=first,
        QUEUE_NAME="hold",
        ON_AMBIGUOUS="hold",
        MESSAGE_LIFETIME="6",
        FORWARD_TIMEOUT="2",
    )
    try:
        first.start()
        second.start_ingress()
        second.start_forwarder()
        ids = {}
        for name, case in CASES.items():
            for fault in case.faults:
                first.api.fail(**fault, subject=f"[{name}]")
            with Wire((second if case.hold else first).port_submission) as wire:
                wire.login()
                reply = wire.message(simple(subject=f"[{name}]"))
                assert reply.startswith("250"), "what the API does to the mail itself is not the preflight's to know"
                ids[name] = reply.rsplit(" ", 1)[1]
        for stack in (first, second):
            wait_until(lambda s=stack: not s.queued(), timeout=90, what="every message's fate")
        yield {name: fate(second if CASES[name].hold else first, name, ids[name]) for name in CASES}
    finally:
        first.api.clear_faults()
        second.stop()
        first.stop()


def fate(stack: Stack, name: str, message_id: str) -> Fate:
    store = MessageStore(stack.redis.client(), stack.queue_name)
    stored = store.load([message_id])[0]
    assert stored is None or isinstance(stored, StoredMessage)
    events = [json.loads(line) for line in stack.forwarder.output().splitlines()]
    return Fate(
        message_id=message_id,
        mails=[mail for mail in stack.api.sent() if mail["body"]["subject"] == f"[{name}]"],
        dead=stored if message_id in store.dead_ids() else None,
        verdicts=[event["event"].partition(":")[0] for event in events if event.get("message_id") == message_id],
    )


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.dead])
def test_mail_that_arrives(fates: dict[str, Fate], name: str) -> None:
    found, case = fates[name], CASES[name]
    assert found.dead is None
    assert found.verdicts[-1] == "Email relayed"
    # Where the first try did all its work and then said 5xx, the next key sends it once more: at least once.
    assert len(found.mails) == (2 if case.key else 1)
    assert found.mails[-1]["idempotency_key"] == found.message_id + case.key


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.dead])
def test_mail_that_becomes_a_dead_letter(fates: dict[str, Fate], name: str) -> None:
    found, case = fates[name], CASES[name]
    assert found.verdicts[-1] == "Email is a dead letter"
    assert found.dead is not None
    assert found.dead.last_answer is not None
    assert found.dead.last_answer["message"].startswith(case.dead)
    assert json.loads(found.dead.message.body)["subject"] == f"[{name}]", "the whole message is kept"


def test_every_rule_has_a_message() -> None:
    assert {case.rule for case in CASES.values()} == {rule.name for rule in RULES} | {"no answer"}


# A project's secret changes, or the project goes


@pytest.fixture(scope="module")
def relay_with_projects(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("projects"), tls=False) as stack:
        yield stack


def send(stack: Stack, secret: str, subject: str) -> str:
    """The reply to one message."""
    with Wire(stack.port_submission) as wire:
        assert wire.login(secret).startswith("235")
        return wire.message(simple(subject=subject, sender="a@tenant.example"), sender="a@tenant.example")


def arrived(stack: Stack, subject: str) -> bool:
    return any(mail["body"]["subject"] == subject for mail in stack.api.sent())


def test_mail_outlives_the_secret_it_was_sent_with(relay_with_projects: Stack) -> None:
    stack = relay_with_projects
    project = stack.add_project("sk_first", verified=["tenant.example"])
    assert send(stack, "sk_first", "before").startswith("250")
    wait_until(lambda: arrived(stack, "before"), timeout=30, what="mail with the first secret")
    # The forwarder has the first secret in memory now; this mail waits for its second try when the secret is rotated.
    stack.api.fail("status", status=500, times=1, subject="while rotated")
    assert send(stack, "sk_first", "while rotated").startswith("250")
    wait_until(lambda: stack.api.counts()["statuses"].get("500"), timeout=30, what="its first try")
    stack.postgres.execute(f"UPDATE projects SET secret = 'sk_second' WHERE id = '{project}'")
    wait_until(lambda: arrived(stack, "while rotated"), timeout=60, what="mail accepted under the old secret")
    assert stack.api.counts()["statuses"]["401"] == 1, "the old secret was tried, refused, and looked up afresh"
    with Wire(stack.port_submission) as wire:
        assert wire.login("sk_first").startswith("535")
    assert send(stack, "sk_second", "after").startswith("250")
    wait_until(lambda: arrived(stack, "after"), timeout=30, what="mail with the second secret")
    assert stack.queued() == 0


def test_mail_of_a_project_that_is_gone_is_kept_for_a_person(relay_with_projects: Stack) -> None:
    stack = relay_with_projects
    project = stack.add_project("sk_leaving", verified=["tenant.example"])
    stack.api.fail("status", status=500, times=1, subject="orphan")
    assert send(stack, "sk_leaving", "orphan").startswith("250")
    stack.postgres.execute(f"DELETE FROM projects WHERE id = '{project}'")
    store = MessageStore(stack.redis.client(), stack.queue_name)
    wait_until(store.dead_ids, timeout=60, what="a dead letter")
    (stored,) = store.load(store.dead_ids())
    assert isinstance(stored, StoredMessage)
    assert stored.last_answer is not None
    assert stored.last_answer["message"] == "the project no longer exists"
    assert stored.message.project_id == project
