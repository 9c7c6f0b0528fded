"""The session against hostile input: smuggling, injection, bounds, floods, and what clients hear of our troubles."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import product
from pathlib import Path

import pytest

from ingress.backend import Login, Submission
from ingress.certificates import CertificateStore
from ingress.commands import MAX_PARAMETERS
from ingress.replies import Replies, Reply
from ingress.session import COMMAND_LINE, MAX_ERRORS, MAX_IDLE_COMMANDS, SessionFactory
from sandbox.processes import free_port, wait_until
from sandbox.stack import DEMO_SECRET, Stack
from shared.projects import Project
from shared.settings import load_settings
from tests.support.certificates import make_pair, write_pem
from tests.support.sessions import connected
from tests.support.stacks import started
from tests.support.wire import Wire, simple

NEWLINES = [b"\n", b"\r", b"\r\n", b"\r\r\n", b"\n\r", b"\r\n\r", b"\r\0\n", b"\r\n\0", b"\0\r\n"]
FALSE_ENDS = [
    before + b"." + after
    for before, after in product(NEWLINES, NEWLINES)
    # Those that hold the real end somewhere are no false ends.
    if b"\r\n.\r\n" not in before + b"." + after
]
"""CVE-2023-51764 and its family, and NUL beside them: 9 ways to end a line before the dot, 9 after it."""

SMUGGLED = b"MAIL FROM:<evil@example.com>\r\nRCPT TO:<v@x.example>\r\nDATA\r\nSubject: smuggled\r\n\r\nx"


def subjects(stack: Stack) -> list[str]:
    return [mail["body"]["subject"] for mail in stack.api.sent()]


def test_no_false_end_of_data_yields_a_second_message(plain_relay: Stack) -> None:
    assert len(FALSE_ENDS) > 70
    with Wire(plain_relay.port_submission) as wire:
        wire.login()
        for number, false_end in enumerate(FALSE_ENDS):
            answer = wire.message(simple(subject=f"m{number}") + false_end + SMUGGLED)
            assert answer.startswith("250 2.0.0 Message accepted"), repr(false_end)
            assert wire.say("NOOP") == "250 2.0.0 OK", f"in step after {false_end!r}"
    wait_until(lambda: len(plain_relay.api.sent()) >= len(FALSE_ENDS), timeout=60, what="the mails")
    wait_until(lambda: not plain_relay.queued(), timeout=30, what="an empty queue")
    assert sorted(subjects(plain_relay)) == sorted(f"m{number}" for number in range(len(FALSE_ENDS)))
    # What was to be smuggled is content of the one message.
    assert all("evil@example.com" in mail["body"]["body"] for mail in plain_relay.api.sent())


def test_an_end_of_data_cut_anywhere_by_the_network_is_one_end(plain_relay: Stack) -> None:
    tail = b"\r\n.\n\r\n.\r\nNOOP\r\n"
    with Wire(plain_relay.port_submission) as wire:
        wire.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        wire.login()
        for cut in range(len(tail) + 1):
            for line in ("MAIL FROM:<a@example.com>", "RCPT TO:<b@x.example>", "DATA"):
                assert wire.say(line)[0] in "23"
            wire.send(simple(subject=f"cut{cut}") + tail[:cut])
            wire.send(tail[cut:])
            assert wire.reply().startswith("250 2.0.0 Message accepted")
            assert wire.reply() == "250 2.0.0 OK"
    wait_until(lambda: len(plain_relay.api.sent()) == len(tail) + 1, timeout=30, what="the mails")


# A line that holds more than one command to a reader who takes CR or LF for a line's end.
INJECTED = [
    (b"RCPT TO:<b@x.example>\nRCPT TO:<evil@x.example>\r\n", True),
    (b"RCPT TO:<b@x.example\nRCPT TO:<evil@x.example>\r\n", True),
    (b"NOOP\n\r\n", True),
    (b"RCPT TO:<b@x.example>\rRCPT TO:<evil@x.example>\r\n", False),
    (b"RCPT TO:<b@x.example>\r\r\n", False),
    (b"RCPT TO:<b@x.example>\0\r\n", False),
    (b"RCPT TO:<b\0@x.example>\r\n", False),
]


@pytest.mark.parametrize(("line", "closes"), INJECTED, ids=lambda value: repr(value)[:40])
def test_a_bare_newline_in_a_command_runs_nothing(plain_relay: Stack, line: bytes, closes: bool) -> None:
    with Wire(plain_relay.port_submission) as wire:
        wire.login()
        assert wire.say("MAIL FROM:<a@example.com>").startswith("250")
        wire.send(line)
        assert wire.reply().startswith("500 5.5.2")
        if closes:
            assert wire.is_closed()
        else:
            assert wire.say("DATA").startswith("503 5.5.1"), "no recipient was taken"


def test_what_is_pipelined_behind_starttls_is_never_read_as_if_under_tls(relay: Stack) -> None:
    context = ssl.create_default_context(cafile=str(relay.certificates / "fullchain.pem"))
    injected = b"EHLO evil\r\nAUTH PLAIN AGFhYQBiYmI=\r\nMAIL FROM:<a@example.com>\r\nRSET\r\n"
    with Wire(relay.port_submission) as wire:
        wire.say("EHLO test")
        wire.send(b"STARTTLS\r\n" + injected)
        assert wire.reply().startswith("220 2.0.0")
        with context.wrap_socket(wire.socket, server_hostname="localhost") as secure:
            # Nothing answers what was injected: the first words under TLS are an answer to the first words under TLS.
            secure.sendall(b"NOOP\r\n")
            assert secure.recv(4096) == b"250 2.0.0 OK\r\n"
            secure.sendall(b"MAIL FROM:<a@example.com>\r\n")
            assert secure.recv(4096).startswith(b"503 5.5.1"), "the EHLO before TLS is forgotten"


async def test_a_login_in_clear_text_does_not_outlive_a_certificate_that_appears(tmp_path: Path) -> None:
    settings = load_settings({"CERT_PATH": str(tmp_path)})
    store = CertificateStore(settings)
    factory = SessionFactory(settings, Broken("nothing"), store)
    server = await asyncio.get_running_loop().create_server(lambda: factory(implicit_tls=False), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])

    async def say(line: str) -> bytes:
        writer.write(line.encode() + b"\r\n")
        while (answer := await asyncio.wait_for(reader.readline(), 20))[3:4] == b"-":
            pass
        return answer

    watching = asyncio.create_task(store.watch(every=0.01))
    try:
        await reader.readline()
        await say("EHLO x")
        assert (await say("AUTH PLAIN AHBsdW5rAHNrX3g=")).startswith(b"235")
        write_pem(tmp_path, make_pair("localhost"))
        while not (await say("STARTTLS")).startswith(b"220"):  # noqa: ASYNC110
            await asyncio.sleep(0.2)
        context = ssl.create_default_context(cafile=str(tmp_path / "fullchain.pem"))
        await writer.start_tls(context, server_hostname="localhost")
        await say("EHLO x")
        assert (await say("MAIL FROM:<a@example.com>")).startswith(b"530 5.7.0"), "RFC 3207 section 4.2"
    finally:
        watching.cancel()
        writer.close()
        server.close()


# Bounds

BOUNDS = [
    ("a command line of the longest", "NOOP " + "x" * (COMMAND_LINE - 7), "250"),
    ("one octet more", "NOOP " + "x" * (COMMAND_LINE - 6), "500 5.5.6"),
    ("as many parameters as may be", "MAIL FROM:<a@example.com> " + " ".join(["SIZE=1"]), "250"),
    ("more parameters", "MAIL FROM:<a@example.com> " + " ".join(["SIZE=1"] * (MAX_PARAMETERS + 1)), "501 5.5.4"),
    ("a parameter twice", "MAIL FROM:<a@example.com> SIZE=1 SIZE=2", "501 5.5.4"),
    ("a size that no number is", "MAIL FROM:<a@example.com> SIZE=1e3", "501 5.5.4"),
    ("a size of a hundred digits", "MAIL FROM:<a@example.com> SIZE=" + "9" * 100, "501 5.5.4"),
    ("an address of 254 characters and more", f"MAIL FROM:<{'a' * 243}@example.com>", "553 5.1.7"),
    ("many angle brackets", "MAIL FROM:" + "<" * 1000, "501 5.5.4"),
    ("a long source route", "MAIL FROM:<" + "@a," * 600 + "@b:a@example.com>", "250"),
    ("an unclosed quote with backslashes", 'MAIL FROM:<"' + "\\" * 1900, "501 5.5.4"),
    ("bytes that are no UTF-8", b"MAIL FROM:<\xff\xfe@example.com>", "553 5.6.7"),
    ("the same with SMTPUTF8", b"MAIL FROM:<\xff\xfe@example.com> SMTPUTF8", "2|5"),
]


@pytest.mark.parametrize(("said", "begins"), [row[1:] for row in BOUNDS], ids=[row[0] for row in BOUNDS])
def test_bounds_of_commands(plain_relay: Stack, said: str | bytes, begins: str) -> None:
    with Wire(plain_relay.port_submission) as wire:
        wire.login()
        wire.send((said.encode() if isinstance(said, str) else said) + b"\r\n")
        assert wire.reply().startswith(tuple(begins.split("|")))
        assert wire.say("NOOP").startswith("250")


# Parameters that clients send unasked are taken; what would be a promise that is not kept, or nothing known, is 555.
PARAMETERS = [
    *[("MAIL FROM:<a@example.com> " + good, "250 2.0.0") for good in (
        *("AUTH=<>", "AUTH=user@example.com", "RET=FULL", "RET=HDRS", "ENVID=QQ314159", "BODY=7BIT", "BODY=8BITMIME"),
        *("SMTPUTF8", "SIZE=0", "SIZE=1000", "size=1000 body=8bitmime ret=full envid=x auth=<>"),
    )],
    *[("MAIL FROM:<a@example.com> " + bad, "555 5.5.4") for bad in (
        *("BODY=BINARYMIME", "BODY=", "FOO", "FOO=1", "NOTIFY=NEVER", "ORCPT=rfc822;x", "MT-PRIORITY=3"),
        *("REQUIRETLS", "HOLDFOR=60", "BY=120;R", "XORIGINALSENDER=x", "=", "a b c"),
    )],
    *[("RCPT TO:<b@x.example> " + good, "250 2.0.0") for good in (
        *("NOTIFY=NEVER", "NOTIFY=SUCCESS,FAILURE,DELAY", "ORCPT=rfc822;b@x.example", "notify=never orcpt=rfc822;x"),
    )],
    *[("RCPT TO:<b@x.example> " + bad, "555 5.5.4") for bad in (
        *("FOO=1", "SIZE=1", "RET=FULL", "RRVS=2014-04-03T23:01:00Z"),
    )],
]  # fmt: skip


@pytest.mark.parametrize(("line", "begins"), PARAMETERS, ids=lambda value: value[-40:])
def test_parameters(plain_stack: Stack, line: str, begins: str) -> None:
    with Wire(plain_stack.port_submission) as wire:
        wire.login()
        if line.startswith("RCPT"):
            wire.say("MAIL FROM:<a@example.com>")
        assert wire.say(line).startswith(begins)


# Floods


def flood(wire: Wire, line: bytes, count: int) -> list[str]:
    """Replies to ``count`` lines sent at once, up to the end of the connection."""
    wire.send(line * count)
    replies: list[str] = []
    while len(replies) < count and (answer := wire.reply()):
        replies.append(answer)
        if answer.startswith("421"):
            break
    return replies


@pytest.mark.parametrize(
    ("line", "answer", "most"),
    [
        (b"garbage\r\n", "500 5.5.1", MAX_ERRORS),
        (b"\r\n", "500 5.5.1", MAX_ERRORS),
        (b"\x16\x03\x01\x02\r\n", "500 5.5.1", MAX_ERRORS),
        (b"DATA\r\n", "503 5.5.1", MAX_ERRORS),
        (b"AUTH PLAIN !\r\n", "501 5.5.2", MAX_ERRORS),
        (b"AUTH FOO\r\n", "504 5.5.4", MAX_ERRORS),
        (b"NOOP\r\n", "250 2.0.0", MAX_IDLE_COMMANDS - 1),
        (b"EHLO x\r\n", "250-", MAX_IDLE_COMMANDS - 1),
        (b"VRFY x\r\n", "252 2.5.2", MAX_IDLE_COMMANDS - 1),
    ],
    ids=repr,
)
def test_a_flood_of_commands_ends_in_421(plain_stack: Stack, line: bytes, answer: str, most: int) -> None:
    with Wire(plain_stack.port_submission) as wire:
        wire.say("EHLO x")
        replies = flood(wire, line, most + 50)
        assert replies[-1].startswith("421 4.7.0")
        assert all(reply.startswith(answer) for reply in replies[:-1])
        assert most <= len(replies) - 1 <= most + 1


def test_an_accepted_message_wipes_the_slate(plain_relay: Stack) -> None:
    with Wire(plain_relay.port_submission) as wire:
        wire.login()
        for number in range(3):
            for _ in range(MAX_ERRORS - 1):
                assert wire.say("garbage").startswith("500")
            assert wire.message(simple(subject=f"slate{number}")).startswith("250")


def test_a_smarthost_that_pipelines_more_recipients_than_may_be_gets_its_message_through(plain_relay: Stack) -> None:
    with Wire(plain_relay.port_submission) as wire:
        wire.login()
        wire.send(b"MAIL FROM:<a@example.com>\r\n" + b"".join(b"RCPT TO:<b%d@x.example>\r\n" % n for n in range(50)))
        replies = [wire.reply()[:3] for _ in range(51)]
        assert replies == ["250"] * 6 + ["452"] * 45
        assert wire.say("DATA").startswith("354")
        wire.send(simple(subject="many") + b"\r\n.\r\n")
        assert wire.reply().startswith("250")


def memory(pid: int) -> int:
    """Resident memory of a process, in kB."""
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


@pytest.mark.parametrize("before", [b"", b"AUTH PLAIN\r\n", b"AUTH LOGIN\r\n"], ids=repr)
def test_a_line_without_end_is_not_kept(plain_relay: Stack, before: bytes) -> None:
    with Wire(plain_relay.port_submission) as wire:
        wire.say("EHLO x")
        wire.send(before)
        if before:
            assert wire.reply().startswith("334")
        began = memory(plain_relay.ingress.process.pid)
        for _ in range(60):
            wire.send(b"A" * 1_000_000)
        assert memory(plain_relay.ingress.process.pid) - began < 20_000, "of 60,000 kB that were sent"
        assert wire.say("").startswith("500 5.5.6")
        assert wire.say("NOOP").startswith("250")


# Extra ports


@pytest.fixture(scope="module")
def with_extra_ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stack, int, int]]:
    submission = free_port()
    secure = next(port for port in (free_port(base * 1000 + 465) for base in range(21, 32)) if port % 1000 == 465)
    stack = Stack(tmp_path_factory.mktemp("ports"), PORTS_EXTRA=f"{submission}, {secure}", HOST="::")
    with started(stack, ingress=True):
        yield stack, submission, secure


def test_extra_ports_are_as_their_models(with_extra_ports: tuple[Stack, int, int]) -> None:
    stack, submission, secure = with_extra_ports
    context = ssl.create_default_context(cafile=str(stack.certificates / "fullchain.pem"))
    wait_until(lambda: f"port {secure} (secure=true)" in stack.ingress.output(), timeout=20, what="the extra port")
    with Wire(submission) as wire:
        wire.start_tls(context)
        assert wire.login().startswith("235")
        assert wire.message(simple(subject="2525")).startswith("250")
    with Wire(secure, tls=context) as wire:
        assert wire.login().startswith("235")
        assert wire.message(simple(subject="2465")).startswith("250")


def test_the_address_of_all_listens_on_ipv4_and_ipv6(with_extra_ports: tuple[Stack, int, int]) -> None:
    stack, submission, _ = with_extra_ports
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        try:
            probe = socket.create_server((address, 0), family=family)
        except OSError:
            continue
        probe.close()
        with socket.create_connection((address, submission), timeout=20) as client:
            assert client.recv(100).startswith(b"220 ")
            # Refused twenty times, so that the client's address is logged in its one form.
            client.sendall(b"x\r\n" * MAX_ERRORS)
            logged = f'"peer":"{address}"'
            wait_until(lambda: logged in stack.ingress.output(), timeout=20, what=logged)  # noqa: B023


# What clients are told of our troubles: nothing

SECRET_TEXT = "redis://:hunter2@10.0.0.9/0 sk_live_abc"


class Broken:
    """A backend in which one method fails as no code foresaw."""

    def __init__(self, broken: str) -> None:
        self._broken = broken

    def _maybe(self, method: str) -> None:
        if method == self._broken:
            raise RuntimeError(SECRET_TEXT)

    async def authenticate(self, secret: str, *, peer: str) -> Login:
        self._maybe("authenticate")
        return Login(project=Project(id="p", verified_domains=frozenset({"example.com"})), secret=secret)

    async def check_sender(self, login: Login, domain: str) -> None:
        self._maybe("check_sender")

    async def accept(self, submission: Submission) -> Reply:
        self._maybe("accept")
        return Replies.QUEUED.value.filled(id="x")


@asynccontextmanager
async def serving(backend: Broken) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    settings = load_settings({"CERT_PATH": "/nowhere"})
    factory = SessionFactory(settings, backend, CertificateStore(settings))
    async with connected(factory) as streams:
        yield streams


@pytest.mark.parametrize("method", ["authenticate", "check_sender", "accept"])
async def test_no_exceptions_text_reaches_a_client(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = ["EHLO x", "AUTH LOGIN cGx1bms=", DEMO_SECRET, "MAIL FROM:<a@example.com>", "RCPT TO:<b@x.example>", "DATA"]
    async with serving(Broken(method)) as (reader, writer):
        writer.write("".join(line + "\r\n" for line in said).encode() + simple() + b"\r\n.\r\nQUIT\r\n")
        everything = (await asyncio.wait_for(reader.read(), 20)).decode()
    assert "hunter2" not in everything
    assert "RuntimeError" not in everything
    assert "451 4.3.0 Temporary server trouble, try again later\r\n" in everything
