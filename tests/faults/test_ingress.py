"""The ingress killed, cut off and stopped: a message is accepted once or not at all, and a 250 is a promise."""

from __future__ import annotations

import base64
import signal
import socket
import struct
import time
from pathlib import Path
from typing import Final

import pytest

from sandbox.processes import wait_until
from sandbox.stack import DEMO_SECRET, Stack
from shared.message_store import PIECE_BYTES
from tests.faults.conftest import MakeRelay, Settle
from tests.support.kill_switch import Instant, KillSwitch
from tests.support.load import crowd
from tests.support.wire import Wire, simple

BEFORE_HANDOVER: Final = Instant(
    name="before the hand-over", module="ingress.handover", function="HandOver.put", when="before"
)
BEFORE_250: Final = Instant(
    name="between Redis's acknowledgement and the 250",
    module="shared.redis_stream",
    function="RedisStream.exchange",
    when="after",
)

BEFORE_ACCEPTED: Final = Instant(
    name="between a large body's pieces and the step that accepts them",
    module="shared.message_store",
    function="MessageStore.stage",
    when="after",
)


@pytest.mark.parametrize("instant", [BEFORE_HANDOVER, BEFORE_250, BEFORE_ACCEPTED], ids=lambda instant: instant.name)
def test_the_ingress_killed_in_a_transaction(
    make_relay: MakeRelay, books: Settle, tmp_path: Path, instant: Instant
) -> None:
    """The client hears nothing and sends again: one mail, under the id that the first try was given."""
    switch = KillSwitch(instant, tmp_path / "tokens")
    stack = make_relay(**switch.environ)
    stack.start_ingress()
    subject = f"{stack.queue_name}-m"
    line = "x" * 76 + "\r\n"
    text = line * (2 * PIECE_BYTES // len(line) if instant is BEFORE_ACCEPTED else 1)
    message = simple(subject=subject, body=text, extra="Message-ID: <one@client.example>\r\n")
    with Wire(stack.port_submission) as wire:
        wire.login()
        assert wire.message(message) == "", "the connection ends without a reply"
    assert switch.is_spent
    kept = stack.redis.client().zrange(f"{stack.queue_name}:messages", 0, -1)
    assert len(kept) == (instant is BEFORE_250)
    pieces = stack.redis.client().keys(f"{stack.queue_name}:body:*")
    assert len(pieces) == (instant is BEFORE_ACCEPTED)
    assert all(stack.redis.client().ttl(key) > 0 for key in pieces), "they expire"
    stack.ingress.process.kill()
    stack.start_ingress()
    with Wire(stack.port_submission) as wire:
        wire.login()
        reply = wire.message(message)
        assert reply.startswith("250")
    if kept:
        assert kept[0].decode() in reply
    stack.start_forwarder()
    books(f"Ingress killed {instant.name}", stack, [subject], prefix=subject)


def transaction(subject: str) -> tuple[bytes, int]:
    """A whole pipelined session with one message, and where its end of data begins."""
    login = base64.b64encode(f"\0plunk\0{DEMO_SECRET}".encode())
    commands = [b"EHLO x", b"AUTH PLAIN " + login, b"MAIL FROM:<a@example.com>", b"RCPT TO:<b@x.example>", b"DATA"]
    whole = b"\r\n".join([*commands, simple(subject=subject)])
    return whole + b"\r\n.\r\n", len(whole)


def cut(stack: Stack, data: bytes, *, reset: bool, linger: float = 0.0) -> None:
    """Connect, say ``data`` and be gone: by FIN, or by RST, after ``linger`` seconds."""
    with socket.create_connection(("127.0.0.1", stack.port_submission), timeout=30) as client:
        client.recv(1024)
        client.sendall(data)
        time.sleep(linger)
        if reset:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def test_a_disconnect_at_any_byte(bench: Stack, books: Settle) -> None:
    """Before the last byte: not accepted. After it, at whatever time: once, and a client that sends again is known."""
    stack = bench
    stack.start_ingress()
    stack.api.fail("latency", scope="preflight", seconds=0.02)
    length = len(transaction(f"{stack.queue_name}-cut-000-0")[0])
    for at in range(length):
        for reset in (False, True):
            cut(stack, transaction(f"{stack.queue_name}-cut-{at:03}-{int(reset)}")[0][:at], reset=reset)
    given = []
    for number, linger in enumerate((0.0, 0.0, 0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.1)):
        for reset in (False, True):
            subject = f"{stack.queue_name}-end-{number}-{int(reset)}"
            extra = f"Message-ID: <{subject}@client.example>\r\n"
            message = simple(subject=subject, extra=extra)
            head, end = transaction(subject)
            commands = head[: end - len(simple(subject=subject))]
            cut(stack, commands + message + b"\r\n.\r\n", reset=reset, linger=linger)
            with Wire(stack.port_submission) as wire:
                wire.login()
                assert wire.message(message).startswith("250")
            given.append(subject)
    stack.start_forwarder()
    books(f"Client gone at each of {length} bytes, by FIN and by RST", stack, [], prefix=f"{stack.queue_name}-cut")
    books("Client gone after its last byte, then sends again", stack, given, prefix=f"{stack.queue_name}-end")


def test_a_client_that_hangs_up_after_its_last_byte_is_heard_once(bench: Stack, books: Settle) -> None:
    stack = bench
    stack.start_ingress()
    stack.start_forwarder()
    stack.api.fail("latency", scope="preflight", seconds=1, times=1)
    subject = f"{stack.queue_name}-m"
    with Wire(stack.port_submission) as wire:
        wire.login()
        for line in ("MAIL FROM:<a@example.com>", "RCPT TO:<b@x.example>", "DATA"):
            wire.say(line)
        wire.send(simple(subject=subject) + b"\r\n.\r\n")
        wait_until(lambda: stack.api.counts()["preflights"] == 1, timeout=20, what="the preflight")
        wire.socket.shutdown(socket.SHUT_RDWR)
    books("Client hangs up during the preflight", stack, [subject], prefix=subject)


def test_a_preflight_that_outlasts_its_deadline_is_451_while_the_client_waits(
    make_relay: MakeRelay, books: Settle
) -> None:
    stack = make_relay(PREFLIGHT_TIMEOUT="1")
    stack.start_ingress()
    stack.api.fail("hang", scope="preflight", seconds=300)
    subject = f"{stack.queue_name}-m"
    with Wire(stack.port_submission) as wire:
        wire.login()
        assert wire.message(simple(subject=subject)).startswith("451 4.4.1")
        assert stack.queued() == 0
        stack.api.clear_faults()
        assert wire.message(simple(subject=subject)).startswith("250"), "the same connection goes on"
    stack.start_forwarder()
    books("API hangs in the preflight past its deadline", stack, [subject], prefix=subject)


def test_a_stop_finishes_the_transaction_and_sends_421_to_the_idle(bench: Stack, books: Settle) -> None:
    stack = bench
    stack.start_ingress()
    stack.start_forwarder()
    subject = f"{stack.queue_name}-m"
    with Wire(stack.port_submission) as idle, Wire(stack.port_submission) as busy:
        idle.say("EHLO test")
        busy.login()
        for line in ("MAIL FROM:<a@example.com>", "RCPT TO:<b@x.example>", "DATA"):
            busy.say(line)
        stack.ingress.process.signal(signal.SIGTERM)
        assert idle.reply().startswith("421 4.3.2")
        busy.send(simple(subject=subject) + b"\r\n.\r\n")
        assert busy.reply().startswith("250")
        assert busy.reply().startswith("421 4.3.2")
        assert stack.ingress.process.stop() == 0
    books("Ingress stopped in a transaction", stack, [subject], prefix=subject)
    assert stack.forwarder.process.stop() == 0


def test_a_rolling_restart_under_load_shows_no_error_beyond_421(make_relay: MakeRelay, books: Settle) -> None:
    """Twice: a new ingress starts beside the old on the same port, the old is told to stop; the forwarder too."""
    old = make_relay(INGRESS_PROCESSES="2")
    old.start_ingress()
    old.start_forwarder()
    with crowd(old, hang_ups=0, repeats=0) as ledger:
        for _ in range(2):
            new = make_relay(INGRESS_PROCESSES="2", QUEUE_NAME=old.queue_name, PORT_SUBMISSION=str(old.port_submission))
            new.port_submission = old.port_submission
            taken = len(ledger.promised)
            new.start_ingress()
            new.start_forwarder()
            assert old.ingress.process.stop() == 0
            assert old.forwarder.process.stop() == 0
            wait_until(lambda taken=taken: len(ledger.promised) > taken + 20, timeout=30, what="mail after a restart")
            old = new
    # A connection that the kernel had taken for the old process and that nobody had greeted yet is made again.
    allowed = {event for event in ledger.events if event.startswith("421")} | {"250", "no connection"}
    assert ledger.events.keys() <= allowed, ledger.events
    books("Rolling restart of ingress and forwarder under load", old, ledger.given, prefix=f"{old.queue_name}-")
    assert old.ingress.process.stop() == 0
    assert old.forwarder.process.stop() == 0
