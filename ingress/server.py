"""The listeners of one ingress process, and how they start and stop."""

from __future__ import annotations

import asyncio
import errno
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from ingress import heap
from ingress.acceptance import Acceptance
from ingress.acceptor import Acceptor
from ingress.api_stream import ApiStream
from ingress.certificates import CertificateStore
from ingress.handover import ASKED_AT_ONCE, STAGED_AT_ONCE, HandOver
from ingress.limits import PARSED_AT_ONCE
from ingress.message import Limits
from ingress.preflight import Preflight
from ingress.replies import SmtpError
from ingress.session import SessionFactory
from ingress.throttle import FailureThrottle
from shared.log import get_logger
from shared.message_store import MessageStore
from shared.projects import ProjectDirectory
from shared.redis_connection import connect
from shared.redis_stream import RedisStream
from shared.settings import MIB, Settings

PREFLIGHT_CONNECTIONS: Final = 32
"""Preflights under way at once; more wait. Each is one kept-alive connection."""

BACKLOG: Final = 1024
"""Connections that the kernel holds for us."""

log = get_logger(__name__)


class StartError(Exception):
    """The ingress cannot start; the text is one line for a person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """One port to open."""

    port: int
    implicit_tls: bool


def listeners(settings: Settings, *, has_certificate: bool) -> list[Listener]:
    """The ports to open: those with implicit TLS only where there is a certificate."""
    wanted = [
        Listener(port=settings.port_secure, implicit_tls=True),
        Listener(port=settings.port_submission, implicit_tls=False),
        # The big providers' habit: 2465 is another 465, 2525 and 2587 are other 587s.
        *(Listener(port=port, implicit_tls=str(port).endswith("465")) for port in settings.ports_extra),
    ]
    return [listener for listener in wanted if has_certificate or not listener.implicit_tls]


class IngressServer:
    """One process's worth of ingress: its connections to the database, the API and Redis, and its listeners."""

    def __init__(self, settings: Settings, certificates: CertificateStore) -> None:
        self._settings = settings
        self._certificates = certificates
        self._directory = ProjectDirectory(settings.database_url)
        self._api = ApiStream(settings.api_uri, connections=PREFLIGHT_CONNECTIONS)
        self._redis = connect(settings.redis_url, connections=ASKED_AT_ONCE + STAGED_AT_ONCE + 4)
        self._redis_for_bodies = connect(settings.redis_url, connections=STAGED_AT_ONCE, for_large_values=True)
        self._parser_threads = ThreadPoolExecutor(PARSED_AT_ONCE, thread_name_prefix="parser")
        self._digest_threads = ThreadPoolExecutor(PARSED_AT_ONCE, thread_name_prefix="digest")
        self._handover = HandOver(
            MessageStore(self._redis, settings.queue_name, bodies=self._redis_for_bodies),
            RedisStream(settings.redis_url),
            batch_size=settings.batch_size,
            queue_max_messages=settings.queue_max_messages,
            deduplicate_seconds=settings.deduplicate_seconds,
            require_durable=settings.require_durable_redis,
        )
        acceptance = Acceptance(
            directory=self._directory,
            preflight=Preflight(
                self._api,
                timeout=settings.preflight_timeout,
                ttl=settings.preflight_ttl,
                defer_transient=settings.defer_transient,
            ),
            handover=self._handover,
            parsers=self._parser_threads,
            digesters=self._digest_threads,
            limits=Limits(
                max_attachments=settings.max_attachments_count,
                max_attachment_bytes=settings.max_attachment_size_mb * MIB,
                max_message_bytes=settings.max_message_bytes,
            ),
            deduplicate=settings.deduplicate_seconds > 0,
        )
        self._throttle = FailureThrottle(
            # A connection of its own with a short patience: nobody waits for a counter.
            connect(settings.redis_url, connections=4, socket_timeout=1.0),
            name=settings.queue_name,
            pepper=settings.database_url,
            limit=settings.auth_throttle_failures,
            window=settings.auth_throttle_seconds,
            allowed=settings.auth_allow_list,
        )
        self._sessions = SessionFactory(settings, acceptance, certificates, self._throttle)
        self._servers: list[asyncio.Server | Acceptor] = []
        self._watching: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Open the ports. Raises ``StartError`` naming the port and what to do."""
        has_certificate = self._certificates.context is not None
        if not has_certificate:
            log.warning(f"No certificate: port {self._settings.port_secure} stays closed, mail travels in clear text")
        for listener in listeners(self._settings, has_certificate=has_certificate):
            try:
                server = await self._open(listener)
            except OSError as error:
                await self.stop()
                raise StartError(cannot_listen(listener.port, error)) from error
            self._servers.append(server)
            log.info(
                f"SMTP server listening on port {listener.port} (secure={str(listener.implicit_tls).lower()})",
                starttls=has_certificate and not listener.implicit_tls,
            )
        for watch in (self._certificates.watch(), heap.give_back(self._sessions.limits)):
            self._watching.append(asyncio.create_task(watch))

    async def _open(self, listener: Listener) -> asyncio.Server | Acceptor:
        """Open one port. Raises ``OSError``."""
        sock = listening_socket(self._settings.host, listener.port, reuse_port=self._settings.ingress_processes > 1)
        if not listener.implicit_tls and not self._settings.proxy_protocol:
            loop = asyncio.get_running_loop()
            return await loop.create_server(lambda: self._sessions(implicit_tls=False), sock=sock, backlog=BACKLOG)
        acceptor = Acceptor(
            sock,
            sessions=self._sessions,
            certificates=self._certificates,
            implicit_tls=listener.implicit_tls,
            proxies=self._settings.proxy_trusted if self._settings.proxy_protocol else None,
        )
        acceptor.start()
        return acceptor

    async def stop(self) -> None:
        """Accept no more connections, finish the transactions under way, 421 to the idle; bounded in time."""
        for server in self._servers:
            server.close()
        for watching in self._watching:
            watching.cancel()
        await self._sessions.drain(self._settings.shutdown_timeout)
        await self._handover.close()
        await self._directory.close()
        self._parser_threads.shutdown(wait=False, cancel_futures=True)
        self._digest_threads.shutdown(wait=False, cancel_futures=True)
        self._api.close()
        self._throttle.close()
        self._redis.close()
        self._redis_for_bodies.close()

    async def readiness(self) -> dict[str, str]:
        """Does the real work once: a write to Redis, a look-up in the database, room in the queue, open ports."""
        loop = asyncio.get_running_loop()
        queue, database = await asyncio.gather(
            loop.run_in_executor(None, self._handover.probe), self._directory.probe(), return_exceptions=True
        )
        serving = bool(self._servers) and all(server.is_serving() for server in self._servers)
        return {
            "queue": _probed(queue),
            "database": _probed(database),
            "listening": "ok" if serving else "not listening",
        }


def listening_socket(host: str, port: int, *, reuse_port: bool) -> socket.socket:
    """A listening socket; ``::`` listens on IPv4 too. Raises ``OSError``."""
    family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    return socket.create_server(
        (str(address[0]), port),
        family=family,
        backlog=BACKLOG,
        reuse_port=reuse_port,
        dualstack_ipv6=address[0] == "::" and socket.has_dualstack_ipv6(),
    )


def _probed(outcome: BaseException | None) -> str:
    """ "ok", the refusal that a client would get now, or the name of what went wrong."""
    if outcome is None:
        return "ok"
    return str(outcome.reply) if isinstance(outcome, SmtpError) else type(outcome).__name__


def cannot_listen(port: int, error: OSError) -> str:
    """One line on why a port cannot be opened."""
    if error.errno == errno.EACCES:
        return (
            f"Port {port}: permission denied. Ports under 1024 need root, CAP_NET_BIND_SERVICE or"
            " net.ipv4.ip_unprivileged_port_start; or set PORT_SUBMISSION and PORT_SECURE to ports over 1024"
        )
    if error.errno == errno.EADDRINUSE:
        return f"Port {port}: already in use by another program"
    return f"Port {port}: cannot listen ({error.strerror})"
