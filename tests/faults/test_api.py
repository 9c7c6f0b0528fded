"""The API in trouble after the 250, and the database that holds the projects' secrets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from sandbox.processes import free_port, wait_until
from sandbox.stack import ROOT, Role, Stack
from shared.message_store import MessageStore
from shared.queued_message import StoredMessage
from tests.faults.conftest import MakeRelay, Settle
from tests.support.load import send_many
from tests.support.wire import Wire, simple


@pytest.fixture(autouse=True)
def mended(services: Stack) -> Iterator[None]:
    """The next test finds an API and a database that work."""
    yield
    if not services.postgres.process.is_running():
        services.postgres.start()
    if not services.api.process.is_running():
        services.api.start()
    services.api.reset()


def test_an_unknown_outcome_is_held_for_a_person_who_asks_for_another_mail(
    make_relay: MakeRelay, books: Settle
) -> None:
    """ON_AMBIGUOUS=hold: the API did the work and said 500. What is held went out; by hand it goes out again."""
    stack = make_relay(ON_AMBIGUOUS="hold")
    stack.start_ingress()
    stack.start_forwarder()
    stack.api.fail("status_after", status=500, times=1)
    (subject,) = send_many(stack, 1)
    with stack.redis.client() as client:
        store = MessageStore(client, stack.queue_name)
        wait_until(store.dead_ids, timeout=60, what="a held message")
        books("API says 500 after the work, held", stack, [subject], prefix=subject)
        assert store.requeue(store.dead_ids()) == 1
        wait_until(lambda: len(stack.api.sent()) == 2, timeout=60, what="the mail that a person asked for")
        keys = [mail["idempotency_key"] for mail in stack.api.sent()]
        assert keys[1] == f"{keys[0]}.2"
        wait_until(lambda: not store.depth().undelivered and not store.dead_ids(), timeout=20, what="an empty store")


def test_an_api_killed_in_the_middle_of_its_work(bench: Stack, books: Settle) -> None:
    """Its keys say "still running" from then on: the mail waits, is not lost and not sent under another key."""
    stack = bench
    stack.start_ingress()
    stack.start_forwarder()
    stack.api.fail("latency", seconds=30, times=3)
    subjects = send_many(stack, 3)
    records = stack.api.records
    # Not by its count of requests: a call has its key only when the API has looked its project up.
    wait_until(
        lambda: records.exists() and len(records.read_text("utf-8").splitlines()) == 3, timeout=30, what="three keys"
    )
    stack.api.process.kill()
    stack.api.start()
    with stack.redis.client() as client:
        store = MessageStore(client, stack.queue_name)
        wait_until(lambda: store.depth().retries == 3, timeout=60, what="three that wait", poll=0.1)
        wait_until(lambda: stack.api.counts()["statuses"].get("409", 0) >= 3, timeout=60, what="three 409", poll=0.1)
    assert stack.api.sent() == []
    # The API's people settle what its death left open: nothing was sent, so the keys are released.
    stack.api.process.kill()
    for entry in [json.loads(line) for line in records.read_text("utf-8").splitlines()]:
        with records.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**entry, "status": 409}) + "\n")
    stack.api.start()
    books("API killed in the middle of its work", stack, subjects, prefix=f"{stack.queue_name}-", within=90)


def sends(stack: Stack) -> int:
    counts = stack.api.counts()
    return int(counts["requests"] - counts["preflights"])


def test_an_api_restarted_under_way(bench: Stack, books: Settle) -> None:
    stack = bench
    stack.start_ingress()
    stack.start_forwarder()
    stack.api.fail("latency", seconds=0.3)
    subjects = send_many(stack, 60)
    wait_until(lambda: sends(stack) > 5, timeout=30, what="calls under way")
    stack.api.process.stop()
    stack.api.start()
    books("API restarted under way", stack, subjects, prefix=f"{stack.queue_name}-", within=90)


def test_an_api_that_cannot_be_reached(make_relay: MakeRelay, books: Settle) -> None:
    """Before the 250 it is 451; after it the mail waits until the forwarder is told a better address."""
    wrong = {
        "API's name does not resolve": "http://plunk-api.invalid:3000",
        "API refuses connections": f"http://127.0.0.1:{free_port()}",
    }
    relays = {name: make_relay(PREFLIGHT_TIMEOUT="1") for name in wrong}
    lost = {
        name: Role("forwarder", stack.directory, {**stack.environ, "API_URI": wrong[name]}, "--workers", "1")
        for name, stack in relays.items()
    }
    given = {}
    try:
        for name, stack in relays.items():
            role = Role("ingress", stack.directory, {**stack.environ, "API_URI": wrong[name]})
            with misled(role), Wire(stack.port_submission) as wire:
                wire.login()
                assert wire.message(simple()).startswith("451 4.4.1")
            stack.start_ingress()
            given[name] = send_many(stack, 5)
            lost[name].start(ready_text="Forwarder started")
        for stack in relays.values():
            with stack.redis.client() as client:
                store = MessageStore(client, stack.queue_name)
                wait_until(lambda store=store: store.depth().retries == 5, timeout=60, what="five that wait", poll=0.1)
                # Not how often: where the machine is slow, the second try may have come by now.
                for stored in store.load(all_ids(store)):
                    assert isinstance(stored, StoredMessage)
                    assert stored.attempts >= 1
                    assert stored.last_answer is not None
                    assert stored.last_answer["message"] == "the API did not answer (ConnectionError)"
    finally:
        codes = [role.process.stop() for role in lost.values()]
    assert codes == [0, 0]
    assert next(iter(relays.values())).api.sent() == []
    for stack in relays.values():
        stack.start_forwarder()
    for name, stack in relays.items():
        books(name, stack, given[name], prefix=f"{stack.queue_name}-")


@contextmanager
def misled(role: Role) -> Iterator[None]:
    """A role that runs with a wrong address while the block does."""
    try:
        role.start(ready_text="SMTP server listening on port")
        yield
    finally:
        assert role.process.stop() == 0


def all_ids(store: MessageStore) -> list[str]:
    return [value.decode() for value in store.redis.zrange(store.messages_key, 0, -1)]  # type: ignore[union-attr]


def test_a_database_killed_during_forwarding(bench: Stack, books: Settle) -> None:
    """The forwarder cannot look the secret up: the mail waits, and nobody's mail is refused for it."""
    stack = bench
    stack.start_ingress()
    subjects = send_many(stack, 10)
    stack.postgres.kill()
    stack.start_forwarder()
    with stack.redis.client() as client:
        store = MessageStore(client, stack.queue_name)
        wait_until(lambda: store.depth().retries == 10, timeout=60, what="ten that wait", poll=0.1)
        assert store.dead_ids() == []
    stack.postgres.start()
    books("PostgreSQL killed during forwarding", stack, subjects, prefix=f"{stack.queue_name}-")


def test_a_database_outage_is_454_never_535_and_passes(bench: Stack, books: Settle) -> None:
    stack = bench
    stack.start_ingress()
    stack.start_forwarder()
    stack.postgres.kill()
    subject = f"{stack.queue_name}-m"
    with Wire(stack.port_submission) as wire:
        assert wire.login().startswith("454 4.7.0")
        stack.postgres.start()
        assert wire.login().startswith("235")
        assert wire.message(simple(subject=subject)).startswith("250")
    books("PostgreSQL killed before AUTH", stack, [subject], prefix=subject)


def test_what_the_api_refuses_for_good_is_a_dead_letter_that_can_be_retried(bench: Stack, books: Settle) -> None:
    stack = bench
    stack.start_ingress()
    stack.start_forwarder()
    stack.api.fail("status", status=402, message="Billing limit reached", times=1)
    (subject,) = send_many(stack, 1)
    client = stack.redis.client()
    wait_until(lambda: client.zcard(f"{stack.queue_name}:dead"), timeout=30, what="a dead letter")
    environ = {**os.environ, **stack.environ}

    def forwarder(*args: str) -> str:
        command = [sys.executable, "-m", "forwarder", *args]
        return subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    listed = forwarder("failed", "list")
    message_id = listed.split()[0]
    assert "402" in listed
    assert "Billing limit reached" in listed
    assert f'"subject":"{subject}"' in forwarder("failed", "show", message_id)
    assert "dead letters  1" in forwarder("status", "--verify")
    assert forwarder("failed", "retry", "--all", "--reason", "billing") == "1 queued again\n"
    books("API refuses for good, a person retries", stack, [subject], prefix=subject)
    assert "dead letters  0" in forwarder("status", "--verify")
