"""Questions to the Plunk API from the event loop, over kept-alive connections.

The preflight's way. requests blocks, so each question would take a thread, which waits for the interpreter after each
of its system calls while the event loop is busy. Here the loop makes the connection, llhttp (httptools) reads the
answer, and certificates are checked against those that requests trusts. Nothing is sent twice and no redirect is
followed.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import time
from typing import Any, Final
from urllib.parse import urlsplit

import httptools
from urllib3.util.wait import wait_for_read

from shared.http_library import requests
from shared.plunk_api import CONNECT_SHARE, SEND_PATH, Answer, NoAnswer, read_answer

IDLE_SECONDS: Final = 30.0
"""After so long without a question a connection is made anew: something in between may have forgotten it."""

MAX_ANSWER: Final = 1024 * 1024
"""Most bytes of an answer, its headers included."""

_HEADER_VALUE: Final = re.compile(r"[ -~\x80-\xff]+")


class AnswerTooLarge(Exception):
    """An answer has more than ``MAX_ANSWER`` bytes."""


class ApiStream:
    """As many connections as there are questions at once, ``connections`` at most; each question has one for itself."""

    def __init__(self, base_url: str, *, connections: int) -> None:
        prepared = requests.Request("POST", base_url + SEND_PATH).prepare()
        parts = urlsplit(prepared.url or "")
        self._host = parts.hostname or ""
        self._tls = _trusting_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._tls else 80)
        host = parts.netloc.rpartition("@")[2]
        self._head = (
            f"POST {prepared.path_url} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: plunk-smtp-relay\r\n"
            "Accept-Encoding: identity\r\nContent-Type: application/json\r\n"
        ).encode("ascii")
        self._free = asyncio.Semaphore(connections)
        self._idle: list[tuple[_Connection, float]] = []

    async def send(self, body: bytes, *, secret: str, timeout: float) -> Answer | NoAnswer:  # noqa: ASYNC109
        """``POST /v1/send`` with ``body`` (JSON), within ``timeout`` seconds from the wait for a connection to the
        answer's end."""
        if not _HEADER_VALUE.fullmatch(secret):
            # It would end its header, or cannot stand in one.
            return NoAnswer(cause="InvalidHeader", was_sent=False)
        head = b"%bContent-Length: %d\r\nAuthorization: Bearer %b\r\n\r\n"
        request = head % (self._head, len(body), secret.encode("latin-1")) + body
        was_sent = False
        try:
            async with asyncio.timeout(timeout), self._free:
                connection = await self._connected(timeout / CONNECT_SHARE)
                was_sent = True
                try:
                    return await connection.ask(request)
                finally:
                    if connection.is_usable:
                        self._idle.append((connection, time.monotonic()))
                    else:
                        connection.abort()
        except (OSError, ValueError, httptools.HttpParserError, httptools.HttpParserUpgrade, AnswerTooLarge) as error:
            return NoAnswer(cause=type(error).__name__, was_sent=was_sent)

    def close(self) -> None:
        """Close the connections that no question has."""
        while self._idle:
            self._idle.pop()[0].abort()

    async def _connected(self, seconds: float) -> _Connection:
        while self._idle:
            connection, used = self._idle.pop()
            if time.monotonic() - used < IDLE_SECONDS and connection.is_quiet:
                return connection
            connection.abort()
        return await self._connect(seconds)

    async def _connect(self, seconds: float) -> _Connection:
        """A new connection; each of the host's addresses is tried for so long. Raises ``OSError``."""
        loop = asyncio.get_running_loop()
        failure: OSError | None = None
        for family, kind, protocol, _, address in await loop.getaddrinfo(
            self._host, self._port, type=socket.SOCK_STREAM
        ):
            try:
                async with asyncio.timeout(seconds):
                    return await self._connect_to(socket.socket(family, kind, protocol), address)
            except OSError as error:
                failure = error
        raise failure or OSError("no address")

    async def _connect_to(self, sock: socket.socket, address: Any) -> _Connection:
        loop = asyncio.get_running_loop()
        sock.setblocking(False)
        try:
            await loop.sock_connect(sock, address)
        except BaseException:
            sock.close()
            raise
        _, connection = await loop.create_connection(
            _Connection, sock=sock, ssl=self._tls, server_hostname=self._host if self._tls else None
        )
        return connection


class _Connection(asyncio.Protocol):
    """One connection to the API; ``ask`` once at a time."""

    def __init__(self) -> None:
        self._transport: Any = None
        self._parser: Any = None
        self._answered: asyncio.Future[Answer] | None = None
        self._headers: list[tuple[str, str]] = []
        self._content = bytearray()
        self._has_head = False
        self._keeps_alive = False
        self._received = 0

    def ask(self, request: bytes) -> asyncio.Future[Answer]:
        """Send ``request``; resolves to its answer, or fails as the connection or the parser did."""
        self._parser = httptools.HttpResponseParser(self)
        # Of the last answer nothing may be taken for this one's, whose first byte may never come.
        self._has_head = False
        self._keeps_alive = False
        self._received = 0
        self._answered = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answered

    @property
    def is_usable(self) -> bool:
        """Whether another question may follow: the last one was answered, and the connection stays."""
        return self._answered is None and self._keeps_alive and not self._transport.is_closing()

    @property
    def is_quiet(self) -> bool:
        """Whether it is usable and nothing has come unasked, which would be taken for the next question's answer."""
        return self.is_usable and not wait_for_read(self._transport.get_extra_info("socket"), timeout=0.0)

    def abort(self) -> None:
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._answered is None:
            self.abort()
            return
        self._received += len(data)
        if self._received > MAX_ANSWER:
            self._fail(AnswerTooLarge())
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(error)

    def connection_lost(self, error: Exception | None) -> None:
        if error is None and self._has_head and not self._tells_its_end():
            # RFC 9112 section 6.3: a body of no told length ends with the connection.
            self._finish(keeps_alive=False)
        self._fail(error or ConnectionResetError("closed before the answer's end"))

    # What the parser calls

    def on_message_begin(self) -> None:
        self._headers.clear()
        self._content.clear()
        self._has_head = False
        if self._answered is None:
            # A second answer to one question: whose is it?
            self._keeps_alive = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        self._has_head = True

    def on_body(self, body: bytes) -> None:
        self._content += body

    def on_message_complete(self) -> None:
        # RFC 9110 section 15.2: an interim answer is followed by the answer.
        if self._parser.get_status_code() >= 200:
            self._finish(keeps_alive=self._parser.should_keep_alive())

    def _tells_its_end(self) -> bool:
        return any(name.lower() in ("content-length", "transfer-encoding") for name, _ in self._headers)

    def _finish(self, *, keeps_alive: bool) -> None:
        answered, self._answered = self._answered, None
        if answered is None or answered.done():
            return
        self._keeps_alive = keeps_alive
        headers = requests.structures.CaseInsensitiveDict(self._headers)
        answered.set_result(read_answer(self._parser.get_status_code(), headers, bytes(self._content)))

    def _fail(self, error: Exception) -> None:
        answered, self._answered = self._answered, None
        self._keeps_alive = False
        if answered is not None and not answered.done():
            answered.set_exception(error)
        self.abort()


def _trusting_context() -> ssl.SSLContext:
    """TLS as requests makes it: its own list of authorities, names checked."""
    context = ssl.create_default_context(cafile=requests.utils.DEFAULT_CA_BUNDLE_PATH)
    context.set_alpn_protocols(["http/1.1"])
    return context
