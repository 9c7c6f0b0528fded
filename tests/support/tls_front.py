"""TLS in front of a real server, as stunnel, a managed database or PgBouncer terminate it."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import struct
import threading
from pathlib import Path

from tests.support.certificates import make_pair, write_pem

SSL_REQUEST = struct.pack("!II", 8, 80_877_103)
"""PostgreSQL's SSLRequest message."""


class TlsFront:
    """Listens with TLS on loopback and hands everything on to ``target``, in a thread of its own.

    ``postgres``: the client asks for TLS in PostgreSQL's way first, and a client that does not ask is turned away.
    """

    def __init__(self, directory: Path, target: int, *, postgres: bool = False) -> None:
        write_pem(directory, make_pair("localhost"))
        self.authority = directory / "fullchain.pem"
        self.connections = 0
        self._target = target
        self._postgres = postgres
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(self.authority, directory / "privkey.pem")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.port = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, ssl.SSLError):
            if self._postgres:
                if await reader.readexactly(len(SSL_REQUEST)) != SSL_REQUEST:
                    return
                writer.write(b"S")
                await writer.drain()
                await writer.start_tls(self._context)
            self.connections += 1
            behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", self._target)
            await asyncio.gather(_copy(reader, behind_writer), _copy(behind_reader, writer))
        writer.close()

    def __enter__(self) -> TlsFront:
        self._thread.start()
        tls = None if self._postgres else self._context
        starting = asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls)
        server = asyncio.run_coroutine_threadsafe(starting, self._loop).result(20)
        self.port = server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, ssl.SSLError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()
