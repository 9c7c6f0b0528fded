"""SMTP sessions on a port of the test's own event loop: aiosmtpd's class, or ours over a backend of the test's."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from ingress.backend import Login, Submission
from ingress.certificates import CertificateStore
from ingress.replies import Replies, Reply
from ingress.session import SessionFactory
from shared.projects import Project
from shared.settings import load_settings

SECRET = "sk_right"


class Client:
    """A client in the test's event loop that says exactly what it is told."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, port: int, *, context: ssl.SSLContext | None = None) -> Client:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=context, server_hostname="localhost" if context else None
        )
        client = cls(reader, writer)
        await client.reply()
        return client

    async def reply(self) -> str:
        """One whole reply, its lines joined by LF; "" when the server has closed."""
        lines: list[str] = []
        while True:
            line = (await asyncio.wait_for(self.reader.readline(), 20)).decode()
            lines.append(line.rstrip("\r\n"))
            if not line or line[3:4] != "-":
                return "\n".join(lines)

    async def say(self, line: str) -> str:
        await self.send(line.encode() + b"\r\n")
        return await self.reply()

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def until_data(self, mail: str = "MAIL FROM:<a@example.com>") -> str:
        """MAIL, RCPT and DATA; the reply to DATA."""
        await self.say(mail)
        await self.say("RCPT TO:<b@x.example>")
        return await self.say("DATA")

    def close(self) -> None:
        self.writer.close()


class RecordingBackend:
    """Knows one secret; keeps what was handed over. ``accepting`` replaces what becomes of a message."""

    def __init__(self, accepting: Callable[[Submission], Awaitable[Reply]] | None = None) -> None:
        self.accepted: list[Submission] = []
        self._accepting = accepting

    async def authenticate(self, secret: str, *, peer: str) -> Login:
        if secret != SECRET:
            raise Replies.AUTH_INVALID.error()
        return Login(project=Project(id="p", verified_domains=frozenset({"example.com"})), secret=secret)

    async def check_sender(self, login: Login, domain: str) -> None:
        if domain not in login.project.verified_domains:
            raise Replies.SENDER_DOMAIN.error()

    async def accept(self, submission: Submission) -> Reply:
        if self._accepting:
            return await self._accepting(submission)
        self.accepted.append(submission)
        return Replies.QUEUED.value.filled(id="id")


def ours(backend: RecordingBackend, *, certificates: Path | None = None, **settings: str) -> SessionFactory:
    """The relay's sessions over ``backend``; with TLS where ``certificates`` holds some."""
    environ = {"CERT_PATH": str(certificates or "/nowhere"), "SMTP_DOMAIN": "localhost", **settings}
    loaded = load_settings(environ)
    return SessionFactory(loaded, backend, CertificateStore(loaded))


async def until(condition: Callable[[], object]) -> None:
    """Return as soon as ``condition()`` is true. Raises ``TimeoutError`` after ten seconds."""
    deadline = asyncio.get_running_loop().time() + 10
    while not condition():
        if asyncio.get_running_loop().time() > deadline:
            raise TimeoutError
        await asyncio.sleep(0.01)


@asynccontextmanager
async def connected(factory: SessionFactory) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection in clear text to a session of ``factory``; its greeting is not read yet."""
    async with listening(lambda: factory(implicit_tls=False)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            yield reader, writer
        finally:
            writer.close()


@asynccontextmanager
async def listening(
    make_protocol: Callable[[], asyncio.BaseProtocol], *, context: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """The port on which each connection gets its own protocol; with ``context`` under implicit TLS."""
    server = await asyncio.get_running_loop().create_server(make_protocol, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
