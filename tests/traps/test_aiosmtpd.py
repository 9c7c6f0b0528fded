"""What aiosmtpd's stock ``SMTP`` does that a mail relay must not, and that our session does not do it.

Each pair of tests talks to the stock class first, so that an override that a later aiosmtpd makes needless is noticed.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import importlib.metadata
import socket
import ssl
import struct
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, AuthResult

from ingress.backend import Login, Submission
from ingress.replies import Replies, Reply
from ingress.session import SessionFactory
from sandbox.stack import make_certificate
from tests.support.sessions import SECRET, Client, RecordingBackend, connected, listening, ours, until
from tests.support.wire import Wire, simple

MIB = 1024 * 1024


class Handler:
    """A stock handler that takes everything and keeps nothing."""

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        return "250 OK"


def stock(handler: object | None = None, **options: Any) -> Callable[[], SMTP]:
    return lambda: SMTP(handler or Handler(), hostname="localhost", **options)


def plain(user: str, secret: str) -> str:
    return "AUTH PLAIN " + base64.b64encode(f"\0{user}\0{secret}".encode()).decode()


async def logged_in(port: int) -> Client:
    client = await Client.connect(port)
    await client.say("EHLO test")
    assert (await client.say(plain("plunk", SECRET))).startswith("235")
    return client


# A line without end


async def grown_by_a_line_without_end(client: Client) -> int:
    """Most bytes that this process held more while 8 MiB without CRLF came, well past a limit of 1 MiB."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        with contextlib.suppress(ConnectionError):  # A server may have had enough of it.
            for _ in range(128):
                await client.send(b"x" * 65_536)
                for _ in range(3):
                    await asyncio.sleep(0)
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


async def test_stock_keeps_a_line_without_end_whatever_its_size_limit() -> None:
    async with listening(stock(data_size_limit=MIB)) as port:
        client = await Client.connect(port)
        await client.say("EHLO test")
        assert (await client.until_data()).startswith("354")
        assert await grown_by_a_line_without_end(client) > 6 * MIB
        client.close()


async def test_our_size_limit_counts_bytes_as_they_arrive() -> None:
    factory = ours(RecordingBackend(), MAX_MESSAGE_SIZE_MB="1")
    async with listening(lambda: factory(implicit_tls=False)) as port:
        client = await logged_in(port)
        assert (await client.until_data()).startswith("354")
        assert await grown_by_a_line_without_end(client) < 2 * MIB
        assert factory.limits.bytes == 0, "nothing of it is held"
        client.close()


# One timeout for everything


async def upload_steadily(client: Client, *, pieces: int) -> None:
    for _ in range(pieces):
        await client.send(b"a line\r\n")
        await asyncio.sleep(0.1)


async def test_stock_cuts_a_steady_upload() -> None:
    async with listening(stock(timeout=0.5)) as port:
        client = await Client.connect(port)
        await client.say("EHLO test")
        assert (await client.until_data()).startswith("354")
        with pytest.raises(ConnectionError):
            await upload_steadily(client, pieces=100)
        client.close()


async def test_our_idle_limit_counts_from_the_last_byte() -> None:
    backend = RecordingBackend()
    factory = ours(backend, IDLE_TIMEOUT="1")
    async with listening(lambda: factory(implicit_tls=False)) as port:
        client = await logged_in(port)
        assert (await client.until_data()).startswith("354")
        await upload_steadily(client, pieces=20)
        await client.send(b".\r\n")
        assert (await client.reply()).startswith("250")
        assert backend.accepted[0].data == b"a line\r\n" * 20
        # And the limit does hold for a client that says nothing.
        assert (await client.reply()).startswith("421 4.4.2 Idle")
        assert await client.reply() == ""
        client.close()


async def test_our_limits_leave_the_preflights_wait_alone() -> None:
    async def slow(_: Submission) -> Reply:
        await asyncio.sleep(1.5)
        return Replies.QUEUED.value.filled(id="slow")

    factory = ours(RecordingBackend(slow), IDLE_TIMEOUT="0.5", DATA_TIMEOUT="0.5", SESSION_TIMEOUT="60")
    async with listening(lambda: factory(implicit_tls=False)) as port:
        client = await logged_in(port)
        await client.until_data()
        await client.send(b"x\r\n.\r\n")
        assert (await client.reply()).startswith("250")
        client.close()


# What an exception says


class Failing:
    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        raise RuntimeError("redis://:hunter2@host")


async def test_stock_shows_an_exception_to_the_client_as_a_permanent_error() -> None:
    async with listening(stock(Failing())) as port:
        client = await Client.connect(port)
        await client.say("EHLO test")
        await client.until_data()
        await client.send(b"x\r\n.\r\n")
        reply = await client.reply()
        assert reply.startswith("500")
        assert "hunter2" in reply
        client.close()


async def test_our_unknown_trouble_is_temporary_and_without_details() -> None:
    async def fail(_: Submission) -> Reply:
        raise RuntimeError("redis://:hunter2@host")

    factory = ours(RecordingBackend(fail))
    async with listening(lambda: factory(implicit_tls=False)) as port:
        client = await logged_in(port)
        await client.until_data()
        await client.send(b"x\r\n.\r\n")
        assert await client.reply() == str(Replies.TROUBLE.value)
        assert (await client.say("NOOP")).startswith("250"), "the session goes on"
        client.close()


# Authentication


async def test_stock_lets_anyone_in_when_its_authenticator_is_a_coroutine_function() -> None:
    async def look_up() -> AuthResult:
        return AuthResult(success=False)

    # What an ``async def`` authenticator returns; made here so that it can be closed without being awaited.
    coroutine = look_up()
    async with listening(stock(authenticator=lambda *_: coroutine, auth_require_tls=False)) as port:
        client = await Client.connect(port)
        await client.say("EHLO test")
        assert (await client.say(plain("plunk", "wrong"))).startswith("235")
        client.close()
    coroutine.close()


async def test_our_authentication_is_awaited() -> None:
    factory = ours(RecordingBackend())
    async with listening(lambda: factory(implicit_tls=False)) as port:
        client = await Client.connect(port)
        await client.say("EHLO test")
        assert (await client.say(plain("plunk", "wrong"))).startswith("535 5.7.8")
        assert (await client.say(plain("plunk", SECRET))).startswith("235")
        client.close()


async def test_stock_stalls_every_session_while_it_authenticates() -> None:
    loop = asyncio.get_running_loop()
    went_on = threading.Event()
    seen: list[bool] = []

    def authenticator(*_: Any) -> AuthResult:
        loop.call_soon_threadsafe(went_on.set)
        seen.append(went_on.wait(0.3))
        return AuthResult(success=True)

    async with listening(stock(authenticator=authenticator, auth_require_tls=False)) as port:
        client = await Client.connect(port)
        await client.say("EHLO test")
        await client.say(plain("plunk", "x"))
        client.close()
    assert seen == [False], "the event loop stood still while the authenticator waited"


async def test_our_sessions_go_on_while_one_authenticates() -> None:
    answered = asyncio.Event()

    class Slow(RecordingBackend):
        async def authenticate(self, secret: str, *, peer: str) -> Login:
            await answered.wait()
            return await super().authenticate(secret, peer=peer)

    factory = ours(Slow())
    async with listening(lambda: factory(implicit_tls=False)) as port:
        waiting, other = await Client.connect(port), await Client.connect(port)
        await waiting.say("EHLO test")
        await waiting.send(plain("plunk", SECRET).encode() + b"\r\n")
        assert (await other.say("EHLO other")).startswith("250"), "served while the first waits for the database"
        answered.set()
        assert (await waiting.reply()).startswith("235")
        waiting.close()
        other.close()


async def test_stock_lets_a_client_guess_for_ever() -> None:
    options = {"authenticator": lambda *_: AuthResult(success=False, handled=False), "auth_require_tls": False}
    async with listening(stock(**options)) as port:
        client = await Client.connect(port)
        await client.say("EHLO test")
        assert {(await client.say(plain("plunk", f"guess{n}")))[:3] for n in range(100)} == {"535"}
        client.close()


async def test_our_guessers_are_hung_up_on() -> None:
    factory = ours(RecordingBackend(), AUTH_MAX_FAILURES="2")
    async with listening(lambda: factory(implicit_tls=False)) as port:
        client = await Client.connect(port)
        await client.say("EHLO test")
        assert [(await client.say(plain("plunk", f"guess{n}")))[:3] for n in range(2)] == ["535", "535"]
        assert (await client.reply()).startswith("421 4.7.0")
        assert await client.reply() == ""
        client.close()


@pytest.fixture
def tls(tmp_path: Path) -> tuple[Path, ssl.SSLContext, ssl.SSLContext]:
    """The certificates' directory, a server's context and a client's."""
    make_certificate(tmp_path, "localhost")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "fullchain.pem", tmp_path / "privkey.pem")
    return tmp_path, server, ssl.create_default_context(cafile=str(tmp_path / "fullchain.pem"))


async def test_stock_does_not_know_implicit_tls_for_tls(tls: tuple[Path, ssl.SSLContext, ssl.SSLContext]) -> None:
    _, server, trusting = tls
    options = {"authenticator": lambda *_: AuthResult(success=True), "auth_require_tls": True}
    async with listening(stock(**options), context=server) as port:
        client = await Client.connect(port, context=trusting)
        assert "AUTH" not in await client.say("EHLO test")
        assert (await client.say(plain("plunk", "x"))).startswith("538")
        client.close()


async def test_our_implicit_tls_offers_auth(tls: tuple[Path, ssl.SSLContext, ssl.SSLContext]) -> None:
    directory, server, trusting = tls
    factory = ours(RecordingBackend(), certificates=directory)
    async with listening(lambda: factory(implicit_tls=True), context=server) as port:
        client = await Client.connect(port, context=trusting)
        assert "AUTH PLAIN LOGIN" in await client.say("EHLO test")
        assert (await client.say(plain("plunk", SECRET))).startswith("235")
        client.close()


async def test_stock_takes_auth_mechanisms_in_capitals_only() -> None:
    options = {"authenticator": lambda *_: AuthResult(success=True), "auth_require_tls": False}
    async with listening(stock(**options)) as port:
        client = await Client.connect(port)
        await client.say("EHLO test")
        assert (await client.say("AUTH login")).startswith("504")
        client.close()


@pytest.mark.parametrize("mechanism", ["login", "Login", "plain", "PLAIN"])
async def test_our_auth_mechanisms_are_case_insensitive(mechanism: str) -> None:
    factory = ours(RecordingBackend())
    async with listening(lambda: factory(implicit_tls=False)) as port:
        client = await Client.connect(port)
        await client.say("EHLO test")
        assert (await client.say(f"AUTH {mechanism}")).startswith("334")
        client.close()


# What smarthosts send along

HARMLESS_MAIL = ["AUTH=<>", "RET=HDRS", "RET=FULL", "ENVID=QQ314159", "BODY=8BITMIME", "SIZE=100"]
HARMLESS_RCPT = ["NOTIFY=NEVER", "NOTIFY=SUCCESS,FAILURE", "ORCPT=rfc822;b@x.example"]


@pytest.mark.parametrize("parameter", ["AUTH=<>", "RET=HDRS", "ENVID=QQ314159"])
async def test_stock_refuses_harmless_parameters_of_mail(parameter: str) -> None:
    async with listening(stock()) as port:
        client = await Client.connect(port)
        await client.say("EHLO test")
        assert (await client.say(f"MAIL FROM:<a@example.com> {parameter}")).startswith("555")
        client.close()


@pytest.mark.parametrize("parameter", HARMLESS_MAIL)
async def test_our_mail_takes_harmless_parameters(parameter: str) -> None:
    factory = ours(RecordingBackend())
    async with listening(lambda: factory(implicit_tls=False)) as port:
        client = await logged_in(port)
        assert (await client.say(f"MAIL FROM:<a@example.com> {parameter}")).startswith("250")
        client.close()


async def test_stock_refuses_harmless_parameters_of_rcpt() -> None:
    async with listening(stock()) as port:
        client = await Client.connect(port)
        await client.say("EHLO test")
        await client.say("MAIL FROM:<a@example.com>")
        for parameter in HARMLESS_RCPT:
            assert (await client.say(f"RCPT TO:<b@x.example> {parameter}")).startswith("555")
        client.close()


async def test_our_rcpt_takes_harmless_parameters_and_announces_only_what_is_kept() -> None:
    factory = ours(RecordingBackend())
    async with listening(lambda: factory(implicit_tls=False)) as port:
        client = await logged_in(port)
        assert "DSN" not in await client.say("EHLO test")
        await client.say("MAIL FROM:<a@example.com>")
        for parameter in HARMLESS_RCPT:
            assert (await client.say(f"RCPT TO:<b@x.example> {parameter}")).startswith("250")
        client.close()


# Long lines and large messages


async def test_stock_refuses_lines_over_1001_bytes() -> None:
    async with listening(stock()) as port:
        client = await Client.connect(port)
        await client.say("EHLO test")
        await client.until_data()
        await client.send(b"x" * 1002 + b"\r\n.\r\n")
        assert (await client.reply()).startswith("500 Line too long")
        client.close()


async def test_our_lines_may_be_long() -> None:
    backend = RecordingBackend()
    factory = ours(backend)
    async with listening(lambda: factory(implicit_tls=False)) as port:
        client = await logged_in(port)
        await client.until_data()
        await client.send(b"x" * 300_000 + b"\r\n.\r\n")
        assert (await client.reply()).startswith("250")
        assert backend.accepted[0].data == b"x" * 300_000 + b"\r\n"
        client.close()


async def longest_stall(port: int, monkeypatch: pytest.MonkeyPatch, *, login: bool) -> float:
    """Seconds of CPU of the longest single step of the event loop while a message of 9 MB in short lines comes in.

    CPU of this thread, not time on the clock: what else the machine does must not count.
    """
    longest = 0.0
    real = asyncio.events.Handle._run

    def timed(handle: asyncio.Handle) -> None:
        nonlocal longest
        started = time.thread_time()
        real(handle)
        longest = max(longest, time.thread_time() - started)

    message = (b"x" * 70 + b"\r\n") * 125_000

    def upload() -> str:
        with Wire(port) as wire:
            wire.say("EHLO test")
            if login:
                wire.say(plain("plunk", SECRET))
            return wire.message(message)

    with monkeypatch.context() as patch:
        patch.setattr(asyncio.events.Handle, "_run", timed)
        reply = await asyncio.to_thread(upload)
    assert reply.startswith("250"), reply
    return longest


async def test_a_large_message_stalls_the_stock_loop_and_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    async with listening(stock(data_size_limit=None)) as port:
        theirs = await longest_stall(port, monkeypatch, login=False)
    factory = ours(RecordingBackend())
    async with listening(lambda: factory(implicit_tls=False)) as port:
        our_own = await longest_stall(port, monkeypatch, login=True)
    assert our_own * 2 < theirs, f"ours {our_own * 1000:.1f} ms, stock {theirs * 1000:.1f} ms"


# A client that hangs up


async def test_stock_cancels_a_handover_when_the_client_hangs_up() -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    class Slow:
        async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
            begun.set()
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                cancelled.set()
                raise
            return "250 OK"

    async with listening(stock(Slow())) as port:
        client = await Client.connect(port)
        await client.say("EHLO test")
        await client.until_data()
        await client.send(b"x\r\n.\r\n")
        await begun.wait()
        client.writer.transport.abort()
        await asyncio.wait_for(cancelled.wait(), 10)


async def test_our_handover_goes_on_when_the_client_hangs_up(capfd: pytest.CaptureFixture[str]) -> None:
    async with left_in_a_handover() as (factory, gone, finished):
        assert factory.limits.bytes > 0, "the message is in memory still, and counts"
        gone.set()
        await asyncio.wait_for(finished.wait(), 10)
        await until(lambda: not factory._sessions)
    assert factory.limits.bytes == 0
    assert "failed" not in "".join(capfd.readouterr()), "the reply that nobody hears is dropped without a word"


async def test_our_stop_waits_for_a_handover_whose_client_has_hung_up() -> None:
    async with left_in_a_handover() as (factory, gone, finished):
        stopping = asyncio.create_task(factory.drain(10))
        await asyncio.sleep(0)
        assert not stopping.done()
        gone.set()
        await stopping
        assert finished.is_set()


async def test_our_stop_past_its_time_leaves_a_handover_whose_client_has_hung_up() -> None:
    async with left_in_a_handover() as (factory, gone, finished):
        await factory.drain(0.01)
        gone.set()
        await asyncio.wait_for(finished.wait(), 10)


async def test_our_stop_says_421_to_who_comes_meanwhile() -> None:
    factory = ours(RecordingBackend())
    await factory.drain(0)
    async with connected(factory) as (reader, _):
        assert (await reader.readline()).startswith(b"421 4.3.2")
        assert await reader.read() == b""


@asynccontextmanager
async def left_in_a_handover() -> AsyncIterator[tuple[SessionFactory, asyncio.Event, asyncio.Event]]:
    """Sessions whose one client has reset its connection during the hand-over, which ends soon after ``gone`` is set.

    Yields the sessions, ``gone``, and what is set at the end of a hand-over that nothing has cancelled.
    """
    begun, gone, finished = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def slow(_: Submission) -> Reply:
        begun.set()
        await gone.wait()
        finished.set()
        return Replies.QUEUED.value.filled(id="id")

    factory = ours(RecordingBackend(slow))
    async with listening(lambda: factory(implicit_tls=False)) as port:
        client = await logged_in(port)
        await client.until_data()
        await client.send(b"x\r\n.\r\n")
        await begun.wait()
        [session] = factory._sessions
        # A reset, not a mere end of what the client says.
        client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.writer.transport.abort()
        await until(lambda: session._lost)
        yield factory, gone, finished


# What is announced


async def test_stock_announces_neither_pipelining_nor_enhanced_codes() -> None:
    async with listening(stock()) as port:
        client = await Client.connect(port)
        announced = await client.say("EHLO test")
        assert "PIPELINING" not in announced
        assert "ENHANCEDSTATUSCODES" not in announced
        client.close()


async def test_our_pipelining_and_enhanced_codes_are_announced_and_kept() -> None:
    factory = ours(RecordingBackend())
    async with listening(lambda: factory(implicit_tls=False)) as port:
        client = await logged_in(port)
        announced = (await client.say("EHLO test")).split("\n")
        assert {"250-PIPELINING", "250-ENHANCEDSTATUSCODES"} <= set(announced)
        await client.send(b"MAIL FROM:<a@example.com>\r\nRCPT TO:<bad>\r\nRCPT TO:<b@x.example>\r\nDATA\r\n")
        assert [(await client.reply())[:9] for _ in range(4)] == ["250 2.0.0", "553 5.1.3", "250 2.0.0", "354 End d"]
        await client.send(simple() + b"\r\n.\r\nMAIL FROM:<a@other.example>\r\nQUIT\r\n")
        assert [(await client.reply())[:9] for _ in range(3)] == ["250 2.0.0", "550 5.7.1", "221 2.0.0"]
        client.close()


def test_the_aiosmtpd_in_use_has_its_security_fixes() -> None:
    """1.4.5 closed SMTP smuggling (CVE-2024-27305), 1.4.6 STARTTLS injection (CVE-2024-34083)."""
    version = tuple(int(part) for part in importlib.metadata.version("aiosmtpd").split(".")[:3])
    assert version >= (1, 4, 6)
    required = importlib.metadata.requires("plunk-smtp-relay") or []
    assert [line for line in required if line.startswith("aiosmtpd")] == ["aiosmtpd==1.4.6"]
