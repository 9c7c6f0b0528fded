"""A fuzzer that speaks valid and broken SMTP to a real ingress over real sockets, by several clients at once.

``FUZZ_SECONDS`` says how long, ``FUZZ_SEED`` where it begins: every session is a function of its seed. Held after each:

- every line that a client ends is answered by exactly one well-formed reply with a code of the table;
- no reply and no mail carries a mark of another session, and every mail is sent for its session's project;
- what was answered 250 arrives once, and what was never properly ended, or was smuggled into a message, never does;
- the process lives, logs no unforeseen trouble, serves the next client, and neither memory nor open files grow.
"""

# ruff: noqa: E501
from __future__ import annotations

import base64
import contextlib
import os
import random
import re
import socket
import ssl
import struct
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ingress.replies import Replies
from sandbox.processes import wait_until
from sandbox.stack import Stack
from tests.support.wire import Wire, simple

SECONDS = float(os.environ.get("FUZZ_SECONDS", "30"))
SEED = int(os.environ.get("FUZZ_SEED", "0" if "FUZZ_SECONDS" not in os.environ else str(time.time_ns() % 2**32)))
EPOCH = 10.0
"""Seconds of fuzzing between two looks at what arrived and what it cost."""

CLIENTS = 6
PATIENCE = 40.0
"""Seconds within which a reply must come; a bound for a stuck server, not for a slow one."""

TENANTS = {"sk_fuzz_one_000000000000000000": "one.example", "sk_fuzz_two_111111111111111111": "two.example"}

MARK = re.compile(rb"zz[0-9a-f]{16}")
CODES = {reply.value.code for reply in Replies} | {334}
LINE = re.compile(rb"(\d{3})([ -])([\x20-\x7e]*)\r\n")
WITHOUT_ENHANCED = {220, 250, 334, 354}
"""Codes whose replies may lack an enhanced code: the greeting, EHLO's and HELO's, challenges, 354."""

pytestmark = pytest.mark.timeout(SECONDS * 3 + 300)


class Closed(Exception):
    """The server has closed the connection, which it may."""


@dataclass
class Books:
    """What sessions sent: marks of messages by what must become of them."""

    accepted: dict[str, str] = field(default_factory=dict)
    """Mark → secret: answered 250."""
    undecided: dict[str, str] = field(default_factory=dict)
    """Properly ended, but the client went away before the answer: may arrive once or not at all."""
    replies: Counter[int] = field(default_factory=Counter)
    sessions: int = 0


class Session:
    """One client of the fuzzer."""

    def __init__(self, stack: Stack, books: Books, number: int) -> None:
        self.stack = stack
        self.books = books
        self.rng = random.Random(f"{SEED}-{number}")
        self.mark = f"zz{self.rng.getrandbits(64):016x}"
        self.secret = self.rng.choice(list(TENANTS))
        self.domain = TENANTS[self.secret]
        self.logged_in = False
        self.awaits_line = False
        self.buffer = b""
        self.socket: socket.socket
        self.sent: list[bytes] = []

    # The wire

    def send(self, data: bytes) -> None:
        self.sent.append(data)
        try:
            if len(data) < 3 or self.rng.random() < 0.7:
                self.socket.sendall(data)
            else:
                cut = self.rng.randrange(1, len(data))
                self.socket.sendall(data[:cut])
                self.socket.sendall(data[cut:])
        except OSError:
            raise Closed from None

    def reply(self) -> int:
        """Reads one whole reply and checks its form; its code."""
        lines: list[bytes] = []
        while True:
            while b"\n" not in self.buffer:
                try:
                    received = self.socket.recv(65_536)
                except TimeoutError:
                    raise AssertionError(f"no reply to {self.sent[-3:]!r:.300}") from None
                except OSError:
                    raise Closed from None
                if not received:
                    assert not self.buffer, "half a reply"
                    raise Closed
                self.buffer += received
            line, _, self.buffer = self.buffer.partition(b"\n")
            line += b"\n"
            match = LINE.fullmatch(line)
            assert match, f"ill-formed reply {line!r}"
            assert len(line) <= 512
            lines.append(line)
            assert match[1] == lines[0][:3], "one code a reply"
            if match[2] == b" ":
                break
        code = int(lines[0][:3])
        assert code in CODES, lines
        if code not in WITHOUT_ENHANCED:
            assert re.match(rb"\d{3} %d\.\d+\.\d+ " % (code // 100), lines[-1]), lines
        foreign = set(MARK.findall(b"".join(lines))) - {self.mark.encode()}
        assert not foreign, f"another session's words: {lines}"
        self.books.replies[code] += 1
        if code == 421:
            self.expect_end()
        return code

    def expect_end(self) -> None:
        """After 421 nothing more comes."""
        rest = self.buffer
        with contextlib.suppress(OSError):
            while received := self.socket.recv(65_536):
                rest += received
        assert rest == b""
        raise Closed

    def say(self, line: bytes, *, ends: int = 1) -> int:
        self.send(line)
        code = 0
        for _ in range(ends):
            code = self.reply()
        return code

    # What a session does

    def run(self) -> None:
        way = self.rng.choices(["STARTTLS", "implicit", "clear", "no TLS at all"], [4, 4, 2, 1])[0]
        port = self.stack.port_secure if way in ("implicit", "no TLS at all") else self.stack.port_submission
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            if way == "no TLS at all":
                self.not_tls()
                return
            if way == "implicit":
                self.socket = CONTEXT.wrap_socket(self.socket)
            assert self.reply() == 220
            if way == "STARTTLS" and self.rng.random() < 0.95:
                self.say(b"EHLO client\r\n")
                injected = self.injected()
                assert self.say(b"STARTTLS\r\n" + injected) == 220
                try:
                    self.socket = CONTEXT.wrap_socket(self.socket)
                except OSError:
                    # What was injected came behind the 220, as the beginning of a handshake that it is not.
                    assert injected, "a good handshake fails"
                    raise Closed from None
            if way != "clear" and self.rng.random() < 0.9:
                self.say(b"EHLO client\r\n")
                self.login(self.secret)
            for _ in range(self.rng.randrange(1, 14)):
                self.act()
            self.leave()
        except Closed:
            pass
        finally:
            self.socket.close()
            self.books.sessions += 1

    def injected(self) -> bytes:
        return self.rng.choice([b"", b"", b"NOOP\r\n", b"MAIL FROM:<x@one.example>\r\nRSET\r\n"])

    def not_tls(self) -> None:
        junk = self.rng.choice(
            [b"EHLO x\r\n", b"\x16\x03\x01", b"\x16\x03\x01\xff\xff" + b"A" * 70_000, b"\0" * 100, b""]
        )
        with contextlib.suppress(OSError, Closed):
            self.send(junk + self.rng.randbytes(self.rng.randrange(200)))
            self.socket.shutdown(socket.SHUT_WR)
            while self.socket.recv(4096):
                pass

    def leave(self) -> None:
        how = self.rng.choice(["QUIT", "QUIT", "close", "reset", "half"])
        if how == "QUIT":
            assert self.say(b"QUIT\r\n") == 221
        elif how == "reset":
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif how == "half":
            self.send(self.rng.choice([b"NOOP\r\n", b"NO", b""]))
            with contextlib.suppress(OSError):
                self.socket.shutdown(socket.SHUT_WR)

    def login(self, secret: str) -> None:
        code = self.say(b"AUTH PLAIN " + base64.b64encode(f"\0plunk\0{secret}".encode()) + b"\r\n")
        if code == 235:
            assert secret in TENANTS
            assert not self.logged_in
            self.logged_in, self.secret, self.domain = True, secret, TENANTS[secret]

    def act(self) -> None:
        act = self.rng.choices(
            [self.transaction, self.command, self.broken, self.auth, self.pipelined, self.half_message, self.tls_again],
            [30, 30, 15, 8, 10, 4, 1],
        )[0]
        act()

    def command(self) -> None:
        pool = [
            b"NOOP", b"RSET", b"HELP", b"VRFY x", b"EXPN x", b"EHLO " + self.mark.encode(), b"HELO x", b"DATA", b"MAIL", b"RCPT",
            b"MAIL FROM:", b"MAIL FROM:<>", b"MAIL FROM:<a@%s>" % self.domain.encode(), b"MAIL FROM:<a@nobody.example>",
            b"RCPT TO:<%s@x.example>" % self.mark.encode(), b"RCPT TO:<>", b"RCPT TO:<@a,@b:c@x.example>", b"BDAT 10 LAST",
            b"ETRN x", b"TURN", b"XCLIENT ADDR=1.2.3.4", b"QUIT now", b"STARTTLS x", b"MAIL FROM:<a@b> SIZE=" + b"9" * 30,
            b'MAIL FROM:<"a\\"b"@%s> BODY=8BITMIME RET=FULL' % self.domain.encode(), b"RCPT TO:<b@x.example> NOTIFY=NEVER",
            b"MAIL FROM:<\xc3\xa9@one.example> SMTPUTF8", b"RCPT TO:<b@\xc3\xa9.example>", b"GET / HTTP/1.1", b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1",
        ]  # fmt: skip
        line = self.rng.choice(pool)
        code = self.say(line + b"\r\n")
        if code == 354:
            self.data(self.content(), ended=True)

    def broken(self) -> None:
        kind = self.rng.randrange(6)
        if kind == 0:
            self.say(self.rng.randbytes(self.rng.randrange(1, 300)).translate(None, b"\r\n") + b"\r\n")
        elif kind == 1:
            size = self.rng.choice(
                [500, 510, 511, 2040, 2046, 2047, 2049, 12_280, 12_286, 12_287, 12_289, 70_000, 300_000]
            )
            self.say(b"NOOP " + b"x" * size + b"\r\n")
        elif kind == 2:
            self.say(b"NO\0OP\r\n")
        elif kind == 3:
            self.say(b"NOOP\rRSET\r\n")
        elif kind == 4:
            self.say(b"NOOP\nMAIL FROM:<a@one.example>\r\n")
            # A bare LF ends the connection, and nothing behind it is answered.
            with contextlib.suppress(OSError):
                assert self.socket.recv(4096) == b""
            raise Closed
        else:
            self.say(b"\r\n" * 2, ends=2)

    def auth(self) -> None:
        kind = self.rng.randrange(7)
        if kind == 0:
            self.login("sk_wrong_" + self.mark)
        elif kind == 1:
            self.login(self.rng.choice(list(TENANTS)))
        elif kind == 2:
            self.say(b"AUTH PLAIN " + self.rng.choice([b"=", b"!!!!", b"AAAA", b"A" * 5000, b"AGFhYQBi"]) + b"\r\n")
        else:
            code = self.say(
                self.rng.choice(
                    [b"AUTH LOGIN\r\n", b"AUTH PLAIN\r\n", b"AUTH CRAM-MD5\r\n", b"auth login cGx1bms=\r\n"]
                )
            )
            while code == 334:
                answer = [
                    b"*",
                    b"cGx1bms=",
                    b"=",
                    b"\xff\xfe",
                    b"sk_typed_by_hand",
                    b"A" * 13_000,
                    b"QUIT",
                    b"",
                    self.secret.encode(),
                ]
                code = self.say(self.rng.choice(answer) + b"\r\n")
            if code == 235:
                self.logged_in = True

    def content(self) -> bytes:
        rng = self.rng
        kind = rng.randrange(10)
        if kind < 4:
            return simple(subject=f"S {self.mark}", body=f"body {self.mark}", sender=f"a@{self.domain}")
        head = f"From: {self.mark} <a@{self.domain}>\r\nSubject: S {self.mark}\r\n".encode()
        smuggled = (
            b"MAIL FROM:<evil@%s>\r\nRCPT TO:<e@x.example>\r\nDATA\r\nSubject: smuggled\r\n\r\nx" % self.domain.encode()
        )
        bodies = [
            b"\r\nx" + rng.choice([b"\n.\n", b"\n.\r\n", b"\r.\r", b"\r\n.\n", b"\r.\r\n", b"\r\n.\r", b"\r\n\0.\r\n"]) + smuggled,
            b"\r\n" + rng.randbytes(rng.randrange(3000)).replace(b"\r\n.\r\n", b""),
            b"\r\n" + b"y" * rng.choice([999, 70_000, 500_000]),
            b"X-H: v\r\n" * rng.choice([10, 100, 3000]) + b"\r\nbody",
            b"\r\n" + b"..\r\n" * rng.randrange(1000),
            b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n" * rng.choice([2, 40]),
            b"\r\n" + b"z" * 1_200_000,
            b"",
        ]  # fmt: skip
        return head + rng.choice(bodies)

    def data(self, content: bytes, *, ended: bool) -> None:
        """After a 354: the message, ended or not."""
        message = content
        # The marks of what arrives are looked for in subjects; each message has its own.
        subject = f"zz{self.rng.getrandbits(64):016x}"
        message = message.replace(b"S " + self.mark.encode(), subject.encode())
        if not ended:
            self.send(message)
            raise Closed
        if b"\r\n.\r\n" in message or message.startswith(b".\r\n"):
            message = message.replace(b"\r\n.", b"\r\n..")
        self.books.undecided[subject] = self.secret
        code = self.say(message + b"\r\n.\r\n")
        del self.books.undecided[subject]
        if code == 250:
            assert self.logged_in, "nobody is logged in"
            self.books.accepted[subject] = self.secret
        else:
            assert code >= 450, code

    def transaction(self) -> None:
        sender = self.rng.choice([self.domain] * 8 + ["one.example", "two.example", "nobody.example"])
        if self.say(f"MAIL FROM:<{self.mark}@{sender}>\r\n".encode()) == 250:
            assert sender == self.domain, "another project's domain"
        for _ in range(self.rng.choice([1, 1, 2, 7])):
            self.say(f"RCPT TO:<r{self.rng.randrange(9)}@x.example>\r\n".encode())
        if self.say(b"DATA\r\n") == 354:
            self.data(self.content(), ended=True)

    def half_message(self) -> None:
        self.say(f"MAIL FROM:<a@{self.domain}>\r\n".encode())
        self.say(b"RCPT TO:<b@x.example>\r\n")
        if self.say(b"DATA\r\n") == 354:
            tail = self.rng.choice([b"", b"\r\n", b"\r\n.", b"\r\n.\r", b"\n.\n", b"\r\n.\n"])
            self.data(simple(subject=f"S {self.mark}", sender=f"a@{self.domain}") + tail, ended=False)

    def pipelined(self) -> None:
        lines = [
            self.rng.choice([b"NOOP", b"RSET", b"GARBAGE", b"HELP", b"RCPT TO:<b@x.example>"])
            for _ in range(self.rng.randrange(1, 30))
        ]
        self.say(b"".join(line + b"\r\n" for line in lines), ends=len(lines))

    def tls_again(self) -> None:
        code = self.say(b"STARTTLS\r\n")
        assert code in (220, 503, 501, 535)
        if code == 220:
            # Clear text where the handshake should be: the connection ends.
            self.send(b"NOOP\r\n" * 10)
            with contextlib.suppress(OSError):
                while self.socket.recv(4096):
                    pass
            raise Closed


CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
CONTEXT.check_hostname = False
CONTEXT.verify_mode = ssl.CERT_NONE


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(
        tmp_path_factory.mktemp("fuzzed"),
        MAX_MESSAGE_SIZE_MB="1",
        PREFLIGHT_TTL="30",
        DEDUPLICATE_SECONDS="0",
    ) as stack:
        for secret, domain in TENANTS.items():
            stack.add_project(secret, verified=[domain])
        yield stack


def resident(pid: int) -> int:
    """Memory of a process in kB."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1])  # type: ignore[index]


def open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def fuzz(stack: Stack, books: Books, first: int, seconds: float) -> int:
    """Sessions from ``first`` on, by several clients, for ``seconds``; the number of the next."""
    end = time.monotonic() + seconds

    def client(offset: int) -> int:
        number = first + offset
        while time.monotonic() < end:
            try:
                Session(stack, books, number).run()
            except Exception as error:
                raise AssertionError(f"session {number} of FUZZ_SEED={SEED}: {error}") from error
            number += CLIENTS
        return number

    with ThreadPoolExecutor(CLIENTS) as clients:
        return max(clients.map(client, range(CLIENTS)))


def balance(stack: Stack, books: Books) -> int:
    """What was accepted has arrived, once, for its project, and nothing else has; how many mails."""
    wait_until(lambda: not stack.queued(), timeout=120, what="an empty queue")
    rows = [row.split("|") for row in stack.postgres.execute("SELECT secret, id FROM projects").split()]
    ids = dict(rows)
    sent = stack.api.sent()
    marks = [match[0] for mail in sent for match in re.finditer("zz[0-9a-f]{16}", str(mail["body"].get("subject")))]
    assert len(marks) == len(sent), "every mail's subject is one that a session gave it"
    assert not [mark for mark, count in Counter(marks).items() if count > 1], "none twice"
    assert set(books.accepted) <= set(marks), "nothing lost"
    strangers = set(marks) - set(books.accepted) - set(books.undecided)
    assert not strangers, "nothing arrives that was not ended"
    expected = books.accepted | books.undecided
    for mark, mail in zip(marks, sent, strict=True):
        assert mail["project"] == ids[expected[mark]]
    stack.api.reset()
    return len(sent)


def test_valid_and_broken_smtp(target: Stack) -> None:
    process = target.ingress.process
    pid, books, number, mails = process.pid, Books(), 0, 0
    end = time.monotonic() + SECONDS
    settled: tuple[int, int] | None = None
    course: list[int] = []
    while (left := end - time.monotonic()) > 0:
        books.accepted.clear()
        books.undecided.clear()
        number = fuzz(target, books, number, min(EPOCH, left))
        mails += balance(target, books)
        assert process.is_running()
        assert process.pid == pid
        settled = settled or (resident(pid), open_files(pid))
        course.append(resident(pid) // 1024)
    assert settled is not None
    trouble = ("Traceback", "Session failed", "Command failed")
    assert not [line for line in target.ingress.output().splitlines() if any(word in line for word in trouble)]
    memory, files = resident(pid), open_files(pid)
    print(
        f"{books.sessions} sessions, {sum(books.replies.values())} replies, {mails} mails, RSS {course} MB, files {settled[1]} → {files}"
    )
    # Pools, threads and the heap fill for a minute or two. The heap keeps as much as the last messages needed at once, so
    # memory goes up and down with them; the least of each half tells whether anything stays.
    assert memory < settled[0] * 1.5 + 40_000
    if len(course) >= 20:
        half = len(course) // 2
        assert min(course[half:]) < min(course[:half]) * 1.15
    assert files < settled[1] + 50
    assert len(books.replies) > 20, "the fuzzer reaches the corners of the table"
    assert mails > 10
    with Wire(target.port_secure, tls=CONTEXT) as wire:
        secret, domain = next(iter(TENANTS.items()))
        assert wire.login(secret).startswith("235")
        assert wire.message(simple(sender=f"a@{domain}"), sender=f"a@{domain}").startswith("250")
