"""Large messages: what is held of them, where, and for how long."""

from __future__ import annotations

import base64
import random
import re
import threading
from collections.abc import Iterator
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path

import pytest

from sandbox.processes import wait_until
from sandbox.stack import Stack
from tests.support.wire import Wire, simple

MIB = 1024 * 1024
LARGE = simple(subject="large", body=("0123456789abcdef" * 4 + "\r\n") * 50_000)
"""Of more than 3 MB, so that its body goes in pieces."""


@pytest.fixture
def ingress(plain_relay: Stack, tmp_path: Path) -> Iterator[Stack]:
    """An ingress of its own, with room for one message of 10 MB, whose mail nobody forwards."""
    settings = {"QUEUE_NAME": "large", "INGRESS_MEMORY_MB": "16", "MAX_ATTACHMENT_SIZE_MB": "1"}
    stack = Stack(tmp_path, tls=False, services=plain_relay, probes=True, **settings)
    stack.start_ingress()
    try:
        yield stack
    finally:
        stack.stop()
        client = plain_relay.redis.client()
        for key in client.scan_iter("large:*"):
            client.delete(key)


def bodies(stack: Stack) -> list[bytes]:
    found: list[bytes] = stack.redis.client().keys("large:body:*")  # type: ignore[assignment]
    return found


def bytes_in_flight(stack: Stack) -> float:
    metrics = stack.probe("ingress", "/metrics").text
    found = re.search(r"^plunk_smtp_message_bytes_in_flight(?:\{.*\})? (\S+)$", metrics, re.MULTILINE)
    assert found, metrics
    return float(found[1])


def test_a_large_body_is_on_its_way_while_the_api_is_asked(ingress: Stack) -> None:
    ingress.api.fail("latency", scope="preflight", seconds=3)
    replies: list[str] = []
    with Wire(ingress.port_submission) as wire:
        wire.login()
        sending = threading.Thread(target=lambda: replies.append(wire.message(LARGE)))
        sending.start()
        wait_until(lambda: bodies(ingress), timeout=30, what="a body in Redis")
        assert not replies
        assert ingress.redis.client().zcard("large:messages") == 0
        sending.join(30)
    assert replies[0].startswith("250"), replies
    assert ingress.redis.client().zcard("large:messages") == 1
    assert ingress.redis.client().ttl(bodies(ingress)[0]) == -1


def test_the_body_of_a_message_that_the_api_refuses_goes(ingress: Stack) -> None:
    ingress.api.fail("status", scope="preflight", status=403, message="says")
    with Wire(ingress.port_submission) as wire:
        wire.login()
        for _ in range(5):
            assert wire.message(LARGE).startswith("554 5.7.1")
    # The API may well answer before a body is there: at the process's end all of them have been there and gone.
    assert ingress.ingress.process.stop() == 0
    assert not bodies(ingress)
    assert ingress.redis.client().zcard("large:messages") == 0


def test_a_large_message_that_is_dropped_leaves_nothing_in_redis(ingress: Stack) -> None:
    with Wire(ingress.port_submission) as wire:
        wire.login()
        assert wire.message(b"X-Plunk-Drop: true\r\n" + LARGE).startswith("250 2.0.0 Message checked, not sent")
    assert ingress.ingress.process.stop() == 0
    assert not bodies(ingress)


def test_a_refused_upload_gives_its_room_to_the_others_at_once(ingress: Stack) -> None:
    with Wire(ingress.port_submission) as first, Wire(ingress.port_submission) as second:
        for wire in (first, second):
            wire.login()
            for command in ("MAIL FROM:<a@example.com>", "RCPT TO:<b@x.example>", "DATA"):
                wire.say(command)
        head = b"From: a@example.com\r\nSubject: s\r\n\r\n"
        half = (b"x" * 998 + b"\r\n") * 5_000
        first.send(head + half)
        wait_until(lambda: bytes_in_flight(ingress) >= len(half), timeout=30, what="half a message")
        # More than there is room for beside it: no reply before its end, but nothing of it is kept.
        second.send(head + half + half)
        wait_until(lambda: bytes_in_flight(ingress) <= len(head + half), timeout=30, what="room")
        first.send(half + b"\r\n.\r\n")
        assert first.reply().startswith("250")
        second.send(b"\r\n.\r\n")
        assert second.reply().startswith("452 4.3.1")


def test_large_files_arrive_as_they_were_sent(plain_relay: Stack) -> None:
    files = {f"{size}.bin": random.Random(size).randbytes(size) for size in (2_500_000, 2_500_001, 100_000, 10)}
    mail = EmailMessage(policy=SMTP)
    mail["From"], mail["Subject"] = "a@example.com", "files"
    mail.set_content("See the files.\n")
    for name, content in files.items():
        mail.add_attachment(content, maintype="application", subtype="octet-stream", filename=name)
    with Wire(plain_relay.port_submission) as wire:
        wire.login()
        assert wire.message(mail.as_bytes()).startswith("250")
    wait_until(plain_relay.api.sent, timeout=30, what="the mail")
    (sent,) = plain_relay.api.sent()
    arrived = {
        file["filename"]: base64.b64decode(file["content"], validate=True) for file in sent["body"]["attachments"]
    }
    assert arrived == files
