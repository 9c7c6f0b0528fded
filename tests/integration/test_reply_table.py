"""Every row of the reply table (``ingress.replies``, docs/smtp-replies.md) reached by a transcript on a real relay."""

from __future__ import annotations

import asyncio
import base64
import re
import signal
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from ingress.backend import Submission
from ingress.preflight import TABLE
from ingress.replies import Replies, Reply
from sandbox.processes import wait_until
from sandbox.stack import DEMO_SECRET, Stack
from tests.support.sessions import SECRET, Client, RecordingBackend, listening, ours
from tests.support.wire import Wire, simple

MIB = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Relays:
    """Relays over the same servers."""

    plain: Stack
    """Without a certificate, with a short patience at the preflight."""
    tls: Stack
    narrow: Stack
    """Small limits, and 451 for the API's passing trouble; its queue is full after two messages."""

    def wire(self) -> Wire:
        """A connection to the plain relay that has authenticated."""
        wire = Wire(self.plain.port_submission)
        assert wire.login().startswith("235")
        return wire


@pytest.fixture(scope="module")
def relays(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relays]:
    with ExitStack() as cleanup:

        def relay(name: str, *, tls: bool, services: Stack | None, **settings: str) -> Stack:
            stack = Stack(tmp_path_factory.mktemp(name), tls=tls, services=services, QUEUE_NAME=name, **settings)
            cleanup.callback(stack.stop)
            if services is None:
                stack.start_services()
            stack.start_ingress()
            return stack

        plain = relay("plain", tls=False, services=None, PREFLIGHT_TIMEOUT="1")
        tls = relay("tls", tls=True, services=plain)
        narrow = relay(
            "narrow",
            tls=False,
            services=plain,
            IDLE_TIMEOUT="2",
            SESSION_TIMEOUT="4",
            MAX_CONNECTIONS_PER_IP="3",
            INGRESS_MEMORY_MB="16",
            MAX_ATTACHMENT_SIZE_MB="1",
            QUEUE_MAX_MESSAGES="2",
            DEFER_TRANSIENT="true",
            PREFLIGHT_TIMEOUT="1",
        )
        yield Relays(plain=plain, tls=tls, narrow=narrow)


def said(*lines: str, login: bool = True) -> Callable[[Relays], list[str]]:
    """The replies to commands on the plain relay."""

    def transcript(relays: Relays) -> list[str]:
        with Wire(relays.plain.port_submission) as wire:
            replies = [wire.greeting, wire.login() if login else wire.say("EHLO test")]
            return replies + [wire.say(line) for line in lines]

    return transcript


def sent(data: bytes) -> Callable[[Relays], list[str]]:
    """The reply to a message on the plain relay."""

    def transcript(relays: Relays) -> list[str]:
        with relays.wire() as wire:
            return [wire.message(data)]

    return transcript


def trusted(relays: Relays) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(relays.tls.certificates / "fullchain.pem"))


def before_tls(*lines: str) -> Callable[[Relays], list[str]]:
    def transcript(relays: Relays) -> list[str]:
        with Wire(relays.tls.port_submission) as wire:
            return [wire.say(line) for line in ("EHLO test", *lines)]

    return transcript


def under_tls(relays: Relays) -> list[str]:
    with Wire(relays.tls.port_submission) as wire:
        wire.start_tls(trusted(relays))
        return [wire.say("EHLO test"), wire.say("STARTTLS")]


def again_and_again(command: str, count: int) -> Callable[[Relays], list[str]]:
    """The command so often, and what the relay says of its own accord at the end."""

    def transcript(relays: Relays) -> list[str]:
        with Wire(relays.plain.port_submission) as wire:
            return [*(wire.say(command) for _ in range(count)), wire.reply()]

    return transcript


def wrong_secrets(relays: Relays) -> list[str]:
    with Wire(relays.plain.port_submission) as wire:
        return [*(wire.login("sk_wrong") for _ in range(3)), wire.reply()]


def silence(relays: Relays) -> list[str]:
    with Wire(relays.narrow.port_submission) as wire:
        return [wire.reply()]


def a_long_session(relays: Relays) -> list[str]:
    with Wire(relays.narrow.port_submission) as wire:
        replies = [wire.login()]
        while replies[-1][0] == "2":
            replies.append(wire.say("NOOP"))
            time.sleep(0.3)
        return replies


def one_connection_too_many(relays: Relays) -> list[str]:
    with ExitStack() as stack:
        return [stack.enter_context(Wire(relays.narrow.port_submission)).greeting for _ in range(4)]


def while_it_stops(relays: Relays) -> list[str]:
    """A relay of its own, which is stopped."""
    stack = Stack(relays.plain.directory / "stopping", tls=False, services=relays.plain, QUEUE_NAME="stopping")
    try:
        stack.start_ingress()
        with Wire(stack.port_submission) as wire:
            wire.say("EHLO test")
            stack.ingress.process.signal(signal.SIGTERM)
            return [wire.reply()]
    finally:
        stack.stop()


def a_defect(_: Relays) -> list[str]:
    """What nobody foresaw, in this process: a real relay has no defect to order."""

    async def fail(_: Submission) -> Reply:
        raise RuntimeError("unforeseen")

    async def transcript() -> list[str]:
        factory = ours(RecordingBackend(fail))
        async with listening(lambda: factory(implicit_tls=False)) as port:
            client = await Client.connect(port)
            await client.say("EHLO test")
            await client.say("AUTH PLAIN " + base64.b64encode(f"\0plunk\0{SECRET}".encode()).decode())
            await client.until_data()
            await client.send(b"x\r\n.\r\n")
            reply = await client.reply()
            client.close()
            return [reply]

    return asyncio.run(transcript())


def without_the_database(*lines: str, login: bool) -> Callable[[Relays], list[str]]:
    def transcript(relays: Relays) -> list[str]:
        with Wire(relays.plain.port_submission) as wire:
            if login:
                wire.login()
            relays.plain.postgres.kill()
            try:
                return [wire.say(line) for line in lines] if lines else [wire.login()]
            finally:
                relays.plain.postgres.start()

    return transcript


def preflight_fault(kind: str, *, narrow: bool = False, **fault: object) -> Callable[[Relays], list[str]]:
    def transcript(relays: Relays) -> list[str]:
        relays.plain.api.fail(kind, scope="preflight", **fault)
        try:
            with Wire((relays.narrow if narrow else relays.plain).port_submission) as wire:
                wire.login()
                return [wire.message(simple())]
        finally:
            relays.plain.api.clear_faults()

    return transcript


def read_only_redis(relays: Relays) -> list[str]:
    client = relays.plain.redis.client()
    client.execute_command("REPLICAOF", "127.0.0.1", "1")
    try:
        with relays.wire() as wire:
            return [wire.message(simple())]
    finally:
        client.execute_command("REPLICAOF", "NO", "ONE")


def a_full_queue(relays: Relays) -> list[str]:
    """No forwarder empties it; how full it is, is looked at once a second."""
    replies: list[str] = []
    with Wire(relays.narrow.port_submission) as wire:
        wire.login()
        wait_until(
            lambda: not replies.append(wire.message(simple())) and not replies[-1].startswith("250"),  # type: ignore[func-returns-value]
            timeout=10,
            poll=0.1,
            what="a full queue",
        )
    return replies


def two_large_uploads(relays: Relays) -> list[str]:
    upload = (b"x" * 76 + b"\r\n") * (9 * MIB // 78)
    with Wire(relays.narrow.port_submission) as first, Wire(relays.narrow.port_submission) as second:
        for wire in (first, second):
            wire.login()
            for line in ("MAIL FROM:<a@example.com>", "RCPT TO:<b@x.example>", "DATA"):
                wire.say(line)
        first.send(upload)
        second.send(upload + b".\r\n")
        # Whichever of them came too late.
        replies = [second.reply()]
        first.send(b".\r\n")
        return [*replies, first.reply()]


def attachments(count: int, size: int, *, narrow: bool = False) -> Callable[[Relays], list[str]]:
    content = base64.encodebytes(b"x" * size).replace(b"\n", b"\r\n")
    part = (
        b"--b\r\nContent-Type: application/pdf\r\nContent-Disposition: attachment; filename=f.pdf\r\n"
        b"Content-Transfer-Encoding: base64\r\n\r\n" + content
    )
    head = simple(extra="MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n", body="")
    data = head + b"--b\r\n\r\ntext\r\n" + part * count + b"--b--\r\n"

    def transcript(relays: Relays) -> list[str]:
        with Wire((relays.narrow if narrow else relays.plain).port_submission) as wire:
            wire.login()
            return [wire.message(data)]

    return transcript


FROM = "From: a@example.com\r\n"
MAIL = "MAIL FROM:<a@example.com>"
RCPT = "RCPT TO:<b@x.example>"

TRANSCRIPTS: dict[Replies, Callable[[Relays], list[str]]] = {
    Replies.GREETING: said(),
    Replies.BYE: said("QUIT"),
    Replies.OK: said("NOOP"),
    Replies.SHUTTING_DOWN: while_it_stops,
    Replies.IDLE_TIMEOUT: silence,
    Replies.SESSION_TIMEOUT: a_long_session,
    Replies.TOO_MANY_CONNECTIONS: one_connection_too_many,
    Replies.TOO_MANY_ERRORS: again_and_again("garbage", 20),
    Replies.TOO_MANY_COMMANDS: again_and_again("NOOP", 100),
    Replies.TROUBLE: a_defect,
    Replies.COMMAND_TOO_LONG: said("NOOP " + "x" * 13_000),
    Replies.COMMAND_UNKNOWN: said("WHAT"),
    Replies.COMMAND_BARE_NEWLINE: said("NO\0OP"),
    Replies.SYNTAX: said("MAIL FROM:<a@example.com"),
    Replies.PARAMETER_UNKNOWN: said(MAIL + " FOO=1"),
    Replies.BAD_SEQUENCE: said(RCPT),
    Replies.VRFY: said("VRFY a@example.com"),
    Replies.HELP: said("HELP"),
    Replies.NOT_IMPLEMENTED: said("EXPN list"),
    Replies.STARTTLS_READY: before_tls("STARTTLS"),
    Replies.TLS_UNAVAILABLE: said("STARTTLS"),
    Replies.TLS_ACTIVE: under_tls,
    Replies.TLS_REQUIRED_FOR_AUTH: before_tls("AUTH LOGIN"),
    Replies.TLS_REQUIRED: before_tls(MAIL),
    Replies.AUTH_OK: said(),
    Replies.AUTH_INVALID: wrong_secrets,
    Replies.AUTH_UNAVAILABLE: without_the_database(login=False),
    Replies.AUTH_CANCELLED: said("AUTH LOGIN", "*", login=False),
    Replies.AUTH_BASE64: said("AUTH PLAIN !!!", login=False),
    Replies.AUTH_TOO_LONG: said("AUTH PLAIN", "x" * 13_000, login=False),
    Replies.AUTH_MECHANISM: said("AUTH CRAM-MD5", login=False),
    Replies.AUTH_TWICE: said("AUTH PLAIN x"),
    Replies.AUTH_FIRST: said(MAIL, login=False),
    Replies.AUTH_TOO_MANY: wrong_secrets,
    Replies.SENDER_SYNTAX: said("MAIL FROM:<nobody>"),
    Replies.SENDER_EMPTY: said("MAIL FROM:<>"),
    Replies.SENDER_DOMAIN: said("MAIL FROM:<a@unverified.example>"),
    Replies.SENDER_UNAVAILABLE: without_the_database("MAIL FROM:<a@other.example>", login=True),
    Replies.RECIPIENT_SYNTAX: said(MAIL, "RCPT TO:<nobody>"),
    Replies.TOO_MANY_RECIPIENTS: said(MAIL, *(f"RCPT TO:<b{n}@x.example>" for n in range(6))),
    Replies.SIZE_EXCEEDED: said(MAIL + " SIZE=10485761"),
    Replies.SMTPUTF8_NEEDED: said("MAIL FROM:<zoë@example.com>"),
    Replies.NO_RECIPIENTS: said(MAIL, "DATA"),
    Replies.START_DATA: said(MAIL, RCPT, "DATA"),
    Replies.QUEUED: sent(simple()),
    Replies.DROPPED: sent(simple(extra="X-Plunk-Drop: true\r\n")),
    Replies.BUSY: two_large_uploads,
    Replies.MESSAGE_TOO_COMPLEX: sent(simple(extra="X-Many: x\r\n" * 2001)),
    Replies.FROM_MISSING: sent(b"Subject: s\r\n\r\nbody"),
    Replies.FROM_DOMAIN: sent(simple(sender="a@unverified.example")),
    Replies.SUBJECT_MISSING: sent(f"{FROM}\r\nbody".encode()),
    Replies.SUBJECT_TOO_LONG: sent(simple(subject="s" * 999)),
    Replies.CONTROL_HEADER: sent(simple(extra="X-Plunk-Data: [1]\r\n")),
    Replies.TOO_MANY_ATTACHMENTS: attachments(11, 1),
    Replies.ATTACHMENTS_TOO_LARGE: attachments(2, MIB // 2 + 1000, narrow=True),
    # Each byte is six as JSON.
    Replies.CALL_TOO_LARGE: sent(simple(extra="Content-Type: text/html\r\n", body=("\x01" * 900 + "\r\n") * 10_500)),
    Replies.REFUSED: preflight_fault("status", status=404),
    Replies.DEFERRED: preflight_fault("status", status=500, narrow=True),
    Replies.API_UNREACHABLE: preflight_fault("drop"),
    Replies.QUEUE_UNAVAILABLE: read_only_redis,
    Replies.QUEUE_FULL: a_full_queue,
}

PREFLIGHT: set[Replies] = {Replies.REFUSED, Replies.DEFERRED}
"""Rows whose enhanced code the API's answer refines within its class."""


def pattern(row: Replies) -> str:
    """What the row's line looks like with its placeholders filled in."""
    reply = row.value
    enhanced = re.escape(reply.enhanced)
    if row in PREFLIGHT:
        enhanced = rf"{reply.enhanced[0]}\.\d\.\d+"
    text = re.sub(r"\\{\w+\\}", "(.+)", re.escape(reply.text))
    return f"{reply.code} {enhanced} {text}" if reply.enhanced else f"{reply.code} {text}"


@pytest.mark.parametrize("row", Replies, ids=lambda row: row.name)
def test_each_reply_is_reached(relays: Relays, row: Replies) -> None:
    assert row in TRANSCRIPTS, f"no transcript reaches {row.name}"
    replies = TRANSCRIPTS[row](relays)
    assert any(re.fullmatch(pattern(row), reply) for reply in replies), replies[-3:]
    assert not any(DEMO_SECRET in reply for reply in replies)


# What the API says to the preflight for as long as it is asked, and how the replies begin: by default, and under
# DEFER_TRANSIENT. "" means that the mail is taken.
SAYS = "Transaction failed: says"
LATER = "Temporarily refused, try again later: says"
GONE = "451 4.4.1 The API did not answer"
API_ANSWERS: dict[str, tuple[dict[str, object], str, str]] = {
    "2xx": ({}, "", ""),
    "422 about the empty to alone": ({"status": 422, "fields": ["to"]}, "", ""),
    "400": ({"status": 400}, f"554 5.6.0 {SAYS}", f"554 5.6.0 {SAYS}"),
    "401": ({"status": 401}, f"554 5.7.8 {SAYS}", f"554 5.7.8 {SAYS}"),
    "402": ({"status": 402}, f"554 5.7.0 {SAYS}", f"554 5.7.0 {SAYS}"),
    "403": ({"status": 403}, f"554 5.7.1 {SAYS}", f"554 5.7.1 {SAYS}"),
    "413": ({"status": 413}, f"554 5.3.4 {SAYS}", f"554 5.3.4 {SAYS}"),
    "422": ({"status": 422, "fields": ["to", "subject"]}, f"554 5.6.0 {SAYS}", f"554 5.6.0 {SAYS}"),
    "429": ({"status": 429, "retry_after": 60}, f"554 5.7.0 {SAYS}", f"451 4.7.0 {LATER}"),
    "other 4xx": ({"status": 404}, f"554 5.0.0 {SAYS}", f"554 5.0.0 {SAYS}"),
    "5xx": ({"status": 500}, f"554 5.3.0 {SAYS}", f"451 4.3.0 {LATER}"),
    "5xx of a proxy": ({"status": 502}, "554 5.3.0 Transaction failed: the API answered 502", "451 4.3.0 Temporarily"),
    "anything else": ({"status": 302}, GONE, GONE),
    "no answer": ({"kind": "drop"}, GONE, GONE),
    "no answer in time": ({"kind": "hang", "seconds": 5}, GONE, GONE),
}


@pytest.mark.parametrize("defer", [False, True], ids=["by default", "DEFER_TRANSIENT"])
@pytest.mark.parametrize("name", API_ANSWERS)
def test_each_answer_of_the_api_has_its_reply(relays: Relays, name: str, defer: bool) -> None:
    fault, *replies = API_ANSWERS[name]
    stack = relays.narrow if defer else relays.plain
    if fault:
        stack.api.fail(**{"kind": "status", "message": "says", "scope": "preflight", **fault})
    try:
        with Wire(stack.port_submission) as wire:
            wire.login()
            data = simple(extra="X-Plunk-Drop: true\r\n" if not replies[defer] else "")
            begins = replies[defer] or "250 2.0.0 Message checked"
            assert (reply := wire.message(data)).startswith(begins), reply
    finally:
        stack.api.clear_faults()


def test_every_answer_in_the_preflights_table_has_its_reply() -> None:
    assert {row.name for row in TABLE} <= set(API_ANSWERS)
