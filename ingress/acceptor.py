"""Accepts connections where something comes before SMTP: a PROXY header, a TLS handshake, or both.

The PROXY header is read from the socket itself, byte-exact, before the loop sees the connection, and only then does the
loop make the TLS handshake: a ClientHello that came in the same segment still lies in the socket. A connection counts
against the limits before its handshake, so that stuck handshakes cannot pile up past them.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from typing import Final

from ingress.certificates import CertificateStore
from ingress.clients import Network, client_address, is_in
from ingress.limits import Slot
from ingress.proxy_protocol import ProxyHeaderError, missing, parse
from ingress.session import TLS_HANDSHAKE, TLS_SHUTDOWN, SessionFactory
from shared.log import get_logger

PROXY_HEADER: Final = 5.0
"""Seconds within which a proxy's header must have come."""

PAUSE: Final = 0.5
"""Seconds without accepting after the system had no file descriptor or memory left for a connection."""

EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

log = get_logger(__name__)


class Acceptor:
    """Serves one listening socket from ``start`` to ``close``. ``proxies`` None: no PROXY header is expected."""

    def __init__(
        self,
        listening: socket.socket,
        *,
        sessions: SessionFactory,
        certificates: CertificateStore,
        implicit_tls: bool,
        proxies: tuple[Network, ...] | None,
    ) -> None:
        listening.setblocking(False)
        self._listening = listening
        self._sessions = sessions
        self._certificates = certificates
        self._implicit_tls = implicit_tls
        self._proxies = proxies
        self._accepting: asyncio.Task[None] | None = None
        self._admitting: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        self._accepting = asyncio.get_running_loop().create_task(self._accept())

    def is_serving(self) -> bool:
        return self._accepting is not None and not self._accepting.done()

    def close(self) -> None:
        """Accept no more; connections that have not become sessions yet are dropped."""
        for task in (self._accepting, *self._admitting):
            if task is not None:
                task.cancel()
        self._listening.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(self._listening)
            except OSError as error:
                if error.errno in EXHAUSTED:
                    log.error("No connection can be accepted now", cause=error.strerror)
                    await asyncio.sleep(PAUSE)
                # Anything else concerns one connection that is gone already.
                continue
            if len(self._admitting) >= self._sessions.limits.max_connections:
                connection.close()
                continue
            task = loop.create_task(self._admit(connection, client_address(str(address[0]))))
            self._admitting.add(task)
            task.add_done_callback(self._admitting.discard)

    async def _admit(self, connection: socket.socket, peer: str) -> None:
        """Make a session of a connection, or close it."""
        slot: Slot | None = None
        try:
            if self._proxies is not None:
                if not is_in(peer, self._proxies):
                    log.warning(f"Connection refused: {peer} is not in PROXY_TRUSTED", peer=peer)
                    connection.close()
                    return
                peer = await _announced_client(connection) or peer
            slot = self._sessions.limits.enter(peer)
            if self._implicit_tls:
                await self._handshake(connection, peer, slot)
                return
            session = self._sessions(implicit_tls=False, peer=peer, slot=slot)
            await asyncio.get_running_loop().connect_accepted_socket(lambda: session, connection)
        except (ProxyHeaderError, TimeoutError) as error:
            log.warning("Connection refused: no PROXY header", peer=peer, cause=str(error) or type(error).__name__)
            connection.close()
        except asyncio.CancelledError:
            connection.close()
            if slot is not None:
                slot.release()
            raise
        except OSError as error:
            log.info("Connection lost before its session", peer=peer, cause=type(error).__name__)
            connection.close()
            if slot is not None:
                slot.release()

    async def _handshake(self, connection: socket.socket, peer: str, slot: Slot) -> None:
        context = self._certificates.context
        if not slot.is_free or context is None:
            # Without a handshake there is no channel for a 421, and none is spent on a client past its limit.
            log.info("Connection closed by the relay", peer=peer, reply="none: too many connections")
            connection.close()
            slot.release()
            return
        session = self._sessions(implicit_tls=True, peer=peer, slot=slot)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: session,
                connection,
                ssl=context,
                ssl_handshake_timeout=TLS_HANDSHAKE,
                ssl_shutdown_timeout=TLS_SHUTDOWN,
            )
        except (ssl.SSLError, OSError, EOFError, TimeoutError) as error:
            log.info("TLS handshake failed", peer=peer, error=type(error).__name__)
            slot.release()


async def _announced_client(connection: socket.socket) -> str | None:
    """The client that a proxy's header names, None where it names none.

    Raises ``ProxyHeaderError``, ``TimeoutError`` or ``OSError``.
    """
    loop = asyncio.get_running_loop()
    header = bytearray()
    async with asyncio.timeout(PROXY_HEADER):
        while wanted := missing(header):
            received = await loop.sock_recv(connection, wanted)
            if not received:
                raise ProxyHeaderError("closed before its end")
            header += received
    announced = parse(bytes(header))
    return client_address(announced) if announced else None
