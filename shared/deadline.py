"""HTTP calls that end by a deadline, whatever the server does.

The timeout of requests bounds each silence of the server, not the call: a server that sends one byte a second holds a
thread for hours. Here the time that is left is set on the socket before every send and receive, so a call from the
connect to the last byte of the answer ends in time.
"""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from shared.http_library import requests

BUFFER: Final = 16 * 1024

_thread = threading.local()


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """This thread's calls through a ``DeadlineAdapter`` end within ``seconds``; past it they raise ``TimeoutError``."""
    _thread.ends_at = time.monotonic() + seconds
    try:
        yield
    finally:
        _thread.ends_at = None


def _limit(sock: socket.socket) -> None:
    ends_at: float | None = getattr(_thread, "ends_at", None)
    if ends_at is None:
        return
    left = ends_at - time.monotonic()
    if left <= 0:
        raise TimeoutError("the deadline has passed")
    sock.settimeout(left)


class _Reader(socket.SocketIO):
    """The receiving side of a socket, as ``socket.makefile`` makes it."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock, "r")
        self._limited = sock

    def readinto(self, buffer: Any) -> int | None:
        _limit(self._limited)
        return super().readinto(buffer)


class _Socket:
    """A connected socket whose every send and receive ends by the thread's deadline."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def sendall(self, data: Any) -> None:
        _limit(self._sock)
        self._sock.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        # As socket.makefile does: the socket stays open until both it and the file are closed.
        self._sock._io_refs += 1  # type: ignore[attr-defined]
        return io.BufferedReader(_Reader(self._sock), BUFFER)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


class _Connection(HTTPConnection):
    def connect(self) -> None:
        super().connect()
        self.sock = _Socket(self.sock)


class _TlsConnection(HTTPSConnection):
    def connect(self) -> None:
        super().connect()
        self.sock = _Socket(self.sock)


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class DeadlineAdapter(requests.adapters.HTTPAdapter):
    """An adapter of requests whose calls obey ``deadline``."""

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
