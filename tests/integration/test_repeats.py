"""A client that sends the same message again gets the first one's id, whatever has become of it meanwhile."""

from __future__ import annotations

import threading

import pytest

from sandbox.processes import wait_until
from sandbox.stack import Stack
from tests.support.wire import Wire, simple


def send(
    stack: Stack,
    *,
    message_id: str = "<same@client>",
    subject: str = "same",
    to: str = "b@x.example",
    body: str = "Text",
) -> str:
    """The reply to one message over a connection of its own."""
    extra = f"Message-ID: {message_id}\r\n" if message_id else ""
    with Wire(stack.port_submission) as wire:
        assert wire.login().startswith("235")
        return wire.message(simple(subject=subject, extra=extra, body=body), recipients=(to,))


@pytest.fixture
def stack(plain_relay: Stack) -> Stack:
    client = plain_relay.redis.client()
    for key in client.scan_iter("plunk-smtp:seen:*"):
        client.delete(key)
    return plain_relay


def test_a_repeat_gets_the_first_id_when_the_mail_has_long_gone(stack: Stack) -> None:
    first = send(stack)
    wait_until(stack.api.sent, timeout=30, what="the mail")
    assert send(stack) == first
    assert first.startswith("250 2.0.0 Message accepted: queued as ")
    wait_until(lambda: not stack.queued(), timeout=30, what="an empty queue")
    assert len(stack.api.sent()) == 1


@pytest.mark.parametrize(
    "other",
    [{"subject": "another"}, {"to": "c@x.example"}, {"message_id": "<other@client>"}],
    ids=["content", "envelope", "Message-ID"],
)
def test_what_differs_is_no_repeat(stack: Stack, other: dict[str, str]) -> None:
    assert send(stack) != send(stack, **other)
    wait_until(lambda: len(stack.api.sent()) == 2, timeout=30, what="both mails")


@pytest.mark.parametrize("size", [1, 10_000, 200_000])
def test_what_differs_in_its_last_byte_is_no_repeat(stack: Stack, size: int) -> None:
    """Whether it is parsed on the event loop or in a thread."""
    line = "0123456789" * 7 + "\r\n"
    body = line * (size // len(line))
    first, again, other = (send(stack, body=body + end) for end in ("a", "a", "b"))
    assert first == again != other
    wait_until(lambda: len(stack.api.sent()) == 2, timeout=30, what="both mails")


def test_without_a_message_id_nothing_is_a_repeat(stack: Stack) -> None:
    assert send(stack, message_id="") != send(stack, message_id="")
    wait_until(lambda: len(stack.api.sent()) == 2, timeout=30, what="both mails")


def test_repeats_at_the_same_instant_are_one_mail_also_during_the_first_ones_preflight(stack: Stack) -> None:
    stack.api.fail("latency", scope="preflight", seconds=0.5, times=2)
    replies: list[str] = []
    threads = [threading.Thread(target=lambda: replies.append(send(stack))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(replies) == 6
    assert len(set(replies)) == 1
    assert replies[0].startswith("250")
    wait_until(stack.api.sent, timeout=30, what="the mail")
    wait_until(lambda: not stack.queued(), timeout=30, what="an empty queue")
    assert len(stack.api.sent()) == 1


def test_a_repeat_is_promised_what_the_first_was_though_the_api_now_refuses(stack: Stack) -> None:
    first = send(stack)
    stack.api.fail("status", scope="preflight", status=402, message="Billing limit reached")
    assert send(stack) == first
    assert send(stack, subject="new").startswith("554 5.7.0")
    stack.api.clear_faults()


def test_a_repeat_of_a_dead_letter_is_the_dead_letter(stack: Stack) -> None:
    stack.api.fail("status", status=422, message="Bad recipient", times=1)
    first = send(stack)
    client = stack.redis.client()
    wait_until(lambda: client.zcard("plunk-smtp:dead"), timeout=30, what="the dead letter")
    assert send(stack) == first
    assert stack.queued() == 0
    assert stack.api.sent() == []
    client.delete("plunk-smtp:dead", *client.keys("plunk-smtp:message:*"))
