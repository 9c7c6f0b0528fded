"""The byte stream under a session: lines of commands and the data of a message, cut from what the transport brings.

In place of aiosmtpd's line-by-line reader, which lets a line grow without bound, cuts a steady upload off after its
idle time and holds the event loop for 230 ms a 10 MB message. What a message's data is cut by is ``ingress.data``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from ingress.data import DataReader

READ_AHEAD: Final = 64 * 1024
"""Pipelined bytes that may wait while a command is worked on; past it the client is held back by TCP."""


class LineTooLong(Exception):
    """A line was longer than allowed; it was thrown away up to its end."""


class BareNewline(Exception):
    """A command held a bare CR, a bare LF or a NUL. ``ambiguous``: a LF, so that where it ends is open to dispute."""

    def __init__(self, *, ambiguous: bool) -> None:
        super().__init__()
        self.ambiguous = ambiguous


class ClientGone(Exception):
    """The client ended its side before the line or the data was complete."""


class ByteStream:
    """Fed by the transport, read by one coroutine."""

    def __init__(self, *, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        self._buffer = bytearray()
        self._pause = pause
        self._resume = resume
        self._paused = False
        self._ended = False
        self._reader: DataReader | None = None
        self._waiter: asyncio.Future[None] | None = None

    def feed(self, data: bytes) -> None:
        if self._reader is None:
            self._hold(data)
        elif self._reader.feed(data):
            self._end_data(self._reader)

    def _hold(self, data: bytes | bytearray) -> None:
        self._buffer += data
        self._wake()
        if len(self._buffer) > READ_AHEAD and not self._paused:
            self._paused = True
            self._pause()

    def _end_data(self, reader: DataReader) -> None:
        self._reader = None
        self._hold(reader.rest)

    def feed_eof(self) -> None:
        self._ended = True
        self._wake()

    def clear(self) -> None:
        """Forget what was pipelined before TLS: it must not count as sent under it (CVE-2024-34083)."""
        self._buffer.clear()

    @property
    def has_line(self) -> bool:
        return b"\n" in self._buffer

    async def read_line(self, limit: int) -> bytes:
        """One line without its CRLF. Raises ``LineTooLong``, ``BareNewline`` or ``ClientGone``.

        ``limit``: the longest line in bytes, CRLF included.
        """
        scanned = 0
        while (end := self._buffer.find(b"\n", scanned)) < 0:
            scanned = len(self._buffer)
            if scanned > limit:
                await self._skip_line()
                raise LineTooLong
            await self._more()
        line = bytes(self._buffer[: end + 1])
        del self._buffer[: end + 1]
        self._unpause()
        if len(line) > limit:
            raise LineTooLong
        if not line.endswith(b"\r\n"):
            raise BareNewline(ambiguous=True)
        if b"\r" in line[:-2] or b"\0" in line:
            raise BareNewline(ambiguous=False)
        return line[:-2]

    async def read_data(self, limit: int, *, reserve: Callable[[int], bool]) -> bytes:
        """A message up to its end (``ingress.data``). Raises ``DataTooLarge``, ``NoRoom`` or ``ClientGone``.

        A message past its ``limit`` in bytes, or without room, is read to its end, or to twice the limit.
        """
        reader = DataReader(limit, reserve=reserve)
        arrived = bytes(self._buffer)
        self._buffer.clear()
        self._unpause()
        self._reader = reader
        self.feed(arrived)
        try:
            while self._reader is not None:
                await self._more()
        finally:
            self._reader = None
        return reader.result()

    async def _skip_line(self) -> None:
        while (end := self._buffer.find(b"\n")) < 0:
            self._buffer.clear()
            self._unpause()
            await self._more()
        del self._buffer[: end + 1]

    async def _more(self) -> None:
        if self._ended:
            raise ClientGone
        self._unpause()
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _unpause(self) -> None:
        if self._paused:
            self._paused = False
            self._resume()
