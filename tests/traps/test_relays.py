"""What other mail relays were caught at, and that this one does not do it."""

from __future__ import annotations

import re
import signal
import ssl
import time
from collections.abc import Iterator

import asyncpg
import pytest

from ingress.message.plain_text import to_html
from sandbox.stack import Stack
from shared.message_store import MessageStore
from tests.support.stacks import started
from tests.support.wire import Wire, simple


@pytest.fixture(scope="module")
def relay_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A relay with TLS and probes, and no forwarder: what was accepted stays in the queue to be looked at."""
    stack = Stack(tmp_path_factory.mktemp("relay"), probes=True, PREFLIGHT_TIMEOUT="1", SHUTDOWN_TIMEOUT="60")
    with started(stack, ingress=True):
        yield stack


def connected(stack: Stack) -> Wire:
    wire = Wire(stack.port_submission)
    wire.start_tls(ssl.create_default_context(cafile=str(stack.certificates / "fullchain.pem")))
    assert wire.login().startswith("235")
    return wire


def test_no_250_before_the_queue_has_the_message(relay_stack: Stack) -> None:
    """A relay said 250 first and inserted then: what failed after the 250 was lost."""
    store = MessageStore(relay_stack.redis.client(), relay_stack.queue_name)
    with connected(relay_stack) as wire:
        relay_stack.redis.process.pause()
        try:
            for line in ("MAIL FROM:<a@example.com>", "RCPT TO:<b@x.example>", "DATA"):
                wire.say(line)
            wire.send(simple() + b"\r\n.\r\n")
            wire.socket.settimeout(1)
            with pytest.raises(TimeoutError):
                wire.socket.recv(1)
        finally:
            relay_stack.redis.process.resume()
        wire.socket.settimeout(30)
        wire._file = wire.socket.makefile("rb")
        reply = wire.reply()
        assert reply.startswith("250"), reply
        assert store.load([reply.rsplit(" ", 1)[1]])[0] is not None


async def test_readiness_does_the_real_work(relay_stack: Stack) -> None:
    """A probe that only read the banner stayed green while RCPT hung."""
    assert relay_stack.probe("ingress", "/readyz").status_code == 200
    connection = await asyncpg.connect(relay_stack.postgres.url)
    try:
        async with connection.transaction():
            # Connections are taken and queries hang, as behind a migration.
            await connection.execute("LOCK TABLE projects, domains IN ACCESS EXCLUSIVE MODE")
            with Wire(relay_stack.port_submission) as wire:
                assert wire.greeting.startswith("220"), "the banner knows nothing of it"
            red = relay_stack.probe("ingress", "/readyz")
            assert (red.status_code, red.json()["database"]) == (503, "DirectoryUnavailable")
    finally:
        await connection.close()
    assert relay_stack.probe("ingress", "/readyz").status_code == 200


@pytest.mark.parametrize(
    "text",
    [
        "Reset it:\n<https://x.example/reset?token=a_b-c&user=1>\nBye",
        "Reset it:\nhttps://x.example/reset?token=a_b-c&user=1\nBye",
        "Reset it: (https://x.example/reset?token=a_b-c&user=1).\nBye",
    ],
)
def test_the_link_of_a_password_reset_survives_as_html(text: str) -> None:
    """Conversions took ``<url>`` for a tag, lost the newlines, or linked before they escaped."""
    html = to_html(text)
    assert re.findall(r'href="([^"]*)"', html) == ["https://x.example/reset?token=a_b-c&amp;user=1"]
    assert "<br" in html or html.count("<div") > 1, "lines stay lines"


@pytest.mark.parametrize("kind", ["hang", "latency"])
def test_a_preflight_does_not_outlast_the_clients_patience(relay_stack: Stack, kind: str) -> None:
    """A client that waited too long for the end of DATA sends again; the API's slowness must end in a reply before."""
    relay_stack.api.fail(kind, scope="preflight", seconds=30)
    try:
        with connected(relay_stack) as wire:
            started = time.monotonic()
            assert wire.message(simple()).startswith("451 4.4.1")
            assert time.monotonic() - started < 30, "not the API's time: PREFLIGHT_TIMEOUT"
    finally:
        relay_stack.api.clear_faults()


def test_idle_clients_do_not_hold_up_a_stop(relay_stack: Stack) -> None:
    """Idle clients held a shutdown for ever: here those that have no transaction, and those that sleep under TLS."""
    with Wire(relay_stack.port_submission) as plain, connected(relay_stack) as asleep:
        plain.say("EHLO test")
        relay_stack.ingress.process.signal(signal.SIGTERM)
        # Well under SHUTDOWN_TIMEOUT: nobody is in a transaction, so nothing is waited for but TLS's good-bye.
        assert relay_stack.ingress.process.stop(timeout=20) == 0
        assert plain.reply().startswith("421 4.3.2")
        assert asleep.reply().startswith("421 4.3.2")
    relay_stack.start_ingress()


def test_a_client_in_the_middle_of_its_message_holds_up_a_stop_for_a_while_only(relay_stack: Stack) -> None:
    stack = Stack(
        relay_stack.directory / "short", tls=False, services=relay_stack, QUEUE_NAME="short", SHUTDOWN_TIMEOUT="1"
    )
    try:
        stack.start_ingress()
        with Wire(stack.port_submission) as wire:
            wire.login()
            for line in ("MAIL FROM:<a@example.com>", "RCPT TO:<b@x.example>", "DATA"):
                wire.say(line)
            wire.send(b"Subject: and so on\r\n")
            assert stack.ingress.process.stop(timeout=30) == 0
    finally:
        stack.stop()
