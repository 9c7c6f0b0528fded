"""Dead letters from end to end: commands, notices through the API, the webhook's deliveries."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from forwarder.webhook import Webhook, sign
from sandbox.processes import wait_until
from sandbox.stack import DEMO_PROJECT, ROOT, Stack
from shared.message_store import MessageStore
from shared.queued_message import QueuedMessage
from tests.support.mail import queued_message as message
from tests.support.wire import Wire, simple

SECRET = "webhook-secret-of-the-tests"


class Receiver:
    """What a webhook's owner would write: checks the signature, keeps what came."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.answers: list[int] = []
        self.forged = 0


@contextmanager
def receiver() -> Iterator[tuple[str, Receiver]]:
    kept = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            wanted = sign(body, secret=SECRET, timestamp=int(self.headers["Plunk-Relay-Timestamp"]))
            kept.forged += wanted != self.headers["Plunk-Relay-Signature"]
            kept.forged += abs(int(self.headers["Plunk-Relay-Timestamp"]) - time.time()) > 300
            status = kept.answers.pop(0) if kept.answers else 204
            if status < 300:
                kept.events.append((self.headers["Plunk-Relay-Event"], json.loads(body)))
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.send_header("Location", "http://127.0.0.1:1/elsewhere")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/hook", kept
    finally:
        server.shutdown()
        server.server_close()


def bury(store: MessageStore, one: QueuedMessage, **options: Any) -> bool:
    store.accept([one])
    assert one.id in store.take("j", 100)
    answer = {"at": time.time(), "status": 422, "code": "VALIDATION_ERROR", "message": "Bad recipient"}
    return store.bury(one.id, job_id="j", attempts=1, generation=1, answer=answer, **options)


def test_an_event_is_kept_with_the_burial_and_until_the_receiver_has_it(store: MessageStore) -> None:
    with receiver() as (url, kept):
        for number in range(3):
            assert bury(store, message(), event=json.dumps({"n": number}).encode() + b"\n")
        # Whatever process comes after a crash delivers it: nothing but Redis knows of it.
        webhook = Webhook(store, url=url, secret=SECRET)
        kept.answers = [500, 302, 204]
        assert webhook.deliver_due() == 1
        assert webhook.deliver_due() == 0, "the others are due later"
        for event, _ in store.redis.zscan_iter(store.webhooks_due_key):
            store.delay_webhook(event.decode(), 0)
        assert webhook.deliver_due() == 2
        assert sorted(told["n"] for _, told in kept.events) == [0, 1, 2]
        assert len({event for event, _ in kept.events}) == 3
        assert kept.forged == 0
    assert store.redis.keys("q:webhooks*") == []


def test_an_event_whose_deliverer_died_is_delivered_again_and_two_do_not_share_one(store: MessageStore) -> None:
    bury(store, message(), event=b"{}\n")
    ((event, body, tries),) = store.take_webhooks(10, claim=60)
    assert (body, tries) == (b"{}\n", 1)
    assert store.take_webhooks(10, claim=60) == []
    store.delay_webhook(event, 0)
    assert store.take_webhooks(10, claim=60) == [(event, b"{}\n", 2)]


def test_events_are_bounded_and_a_receiver_that_never_answers_is_given_up(
    store: MessageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.message_store.MOST_WEBHOOKS", 3)
    for number in range(5):
        bury(store, message(), event=str(number).encode())
    assert sorted(store.redis.hvals(store.webhooks_key)) == [b"2", b"3", b"4"]
    monkeypatch.setattr("forwarder.webhook.MOST_TRIES", 1)
    Webhook(store, url="http://127.0.0.1:1/", secret=SECRET).deliver_due()
    assert store.redis.keys("q:webhooks*") == []
    assert len(store.dead_ids()) == 5, "the dead letters themselves are kept"


def test_a_burial_that_is_not_the_jobs_tells_nobody(store: MessageStore) -> None:
    one = message()
    bury(store, one, event=b"{}", notice=message(id="1" * 32, envelope_from=""))
    assert not store.bury(one.id, job_id="j", attempts=1, generation=1, answer=None, event=b"again")
    assert store.redis.hlen(store.webhooks_key) == 1


def test_a_notice_is_queued_with_the_burial_and_once_a_message(store: MessageStore) -> None:
    one, notice = message(), message(id="1" * 32, envelope_from="")
    bury(store, one, notice=notice)
    assert store.verify(patience=0).counts == {"dead": 1, "waiting": 1}
    assert store.take("k", 10) == [notice.id]
    store.delete([notice.id])
    store.requeue([one.id])
    assert store.take("l", 10) == [one.id]
    assert store.bury(one.id, job_id="l", attempts=2, generation=1, answer=None, notice=notice)
    audit = store.verify(patience=0)
    assert audit.counts == {"dead": 1}, "it died again, and its sender was told before"
    assert audit.mistakes == []


def test_notice_webhook_and_commands_from_end_to_end(tmp_path: Path) -> None:
    with receiver() as (url, kept):
        secret_file = tmp_path / "secret"
        secret_file.write_text(SECRET)
        options = {
            "BOUNCE_NOTICES": "true",
            "DEAD_LETTER_WEBHOOK": url,
            "DEAD_LETTER_WEBHOOK_SECRET_FILE": str(secret_file),
        }
        with Stack(tmp_path / "stack", tls=False, **options) as stack:
            stack.api.fail("status", status=422, message="Bad recipient", times=1)
            with Wire(stack.port_submission) as wire:
                wire.login()
                assert wire.message(simple(subject="m0")).startswith("250")
            wait_until(stack.api.sent, timeout=30, what="the notice")
            (notice,) = stack.api.sent()
            assert notice["body"]["from"] == "mailer-daemon@example.com"
            assert notice["body"]["to"] == ["a@example.com"]
            wait_until(lambda: kept.events, timeout=30, what="the event")
            ((_, told),) = kept.events
            assert (told["subject"], told["answer"]["message"], kept.forged) == ("m0", "Bad recipient", 0)

            # A notice that fails makes no other.
            stack.api.fail("status", status=422, message="Bad recipient again", times=2)
            with Wire(stack.port_submission) as wire:
                wire.login()
                assert wire.message(simple(subject="m1")).startswith("250")
            wait_until(lambda: len(kept.events) == 3, timeout=30, what="two more events")
            wait_until(lambda: not stack.queued(), timeout=30, what="an empty queue")
            assert len(stack.api.sent()) == 1

            def forwarder(*args: str) -> str:
                return subprocess.run(
                    [sys.executable, "-m", "forwarder", *args],
                    env={**os.environ, **stack.environ},
                    cwd=ROOT,
                    capture_output=True,
                    text=True,
                    check=True,
                ).stdout

            listed = [json.loads(line) for line in forwarder("failed", "list", "--json").splitlines()]
            assert [item["subject"] for item in listed] == ["m0", "m1", "Undelivered: m1"]
            assert all(item["died_at"] >= item["last_attempt_at"] >= item["accepted_at"] for item in listed)
            assert len(forwarder("failed", "list", "--reason", "again").splitlines()) == 2
            shown = json.loads(forwarder("failed", "show", "--json", listed[0]["id"]))
            assert (shown["body"]["subject"], shown["attempts"]) == ("m0", 1)
            assert "attempts       1" in forwarder("failed", "show", listed[0]["id"])
            assert forwarder("failed", "retry", "--all", "--project", "another") == "0 queued again\n"
            assert forwarder("failed", "discard", listed[2]["id"]) == "1 discarded\n"
            retried = forwarder("failed", "retry", "--all", "--project", DEMO_PROJECT, "--reason", "bad recipient")
            assert retried == "2 queued again\n"
            wait_until(lambda: len(stack.api.sent()) == 3, timeout=30, what="both mails")
            assert "every one in exactly one place" in forwarder("status", "--verify")
            assert SECRET not in stack.forwarder.output()
            assert "/hook" not in stack.forwarder.output()
