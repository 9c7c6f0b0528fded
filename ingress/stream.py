"""The byte stream under a session: lines of commands and the data of a message, cut from what the transport brings.

In place of aiosmtpd's line-by-line reader, which lets a line grow without bound, cuts a steady upload off after its
idle time and holds the event loop for 230 ms a 10 MB message. Bytes are appended as they arrive and the end of data is
found by one search over the new bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

END_OF_DATA: Final = b"\r\n.\r\n"
"""RFC 5321 section 4.1.1.4. Nothing else ends a message: not LF.LF, not LF.CRLF, not CR.CR (CVE-2023-51764)."""

READ_AHEAD: Final = 64 * 1024
"""Pipelined bytes that may wait while a command is worked on; past it the client is held back by TCP."""


class LineTooLong(Exception):
    """A line was longer than allowed; it was thrown away up to its end."""


class BareNewline(Exception):
    """A command held a bare CR, a bare LF or a NUL. ``ambiguous``: a LF, so that where it ends is open to dispute."""

    def __init__(self, *, ambiguous: bool) -> None:
        super().__init__()
        self.ambiguous = ambiguous


class DataTooLarge(Exception):
    """The message was larger than allowed; its data was thrown away. ``ended``: its end was seen."""

    def __init__(self, *, ended: bool) -> None:
        super().__init__()
        self.ended = ended


class NoRoom(Exception):
    """There was no room for the message among all uploads under way; its data was thrown away up to its end."""


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
        self._reading_data = False
        self._waiter: asyncio.Future[None] | None = None

    def feed(self, data: bytes) -> None:
        self._buffer += data
        self._wake()
        if len(self._buffer) > READ_AHEAD and not self._reading_data and not self._paused:
            self._paused = True
            self._pause()

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
        """A message up to ``END_OF_DATA``, dots unstuffed (RFC 5321 section 4.5.2).

        ``reserve`` is called with each further number of bytes that the message needs. Raises ``DataTooLarge``,
        ``NoRoom`` or ``ClientGone``. A message past its limit is read to its end, or to twice the limit.
        """
        self._reading_data = True
        self._unpause()
        scanned = reserved = 0
        try:
            while True:
                # The CRLF of the DATA command counts as the first of END_OF_DATA: an empty message is ".CRLF".
                if self._buffer.startswith(END_OF_DATA[2:]):
                    del self._buffer[: len(END_OF_DATA) - 2]
                    return b""
                end = self._buffer.find(END_OF_DATA, scanned)
                size = len(self._buffer) if end < 0 else end + 2
                if size > limit and size - self._stuffed_dots(size) > limit:
                    await self._skip_data(end, limit)
                    raise DataTooLarge(ended=True)
                if size > reserved:
                    if not reserve(size - reserved):
                        await self._skip_data(end, limit)
                        raise NoRoom
                    reserved = size
                if end >= 0:
                    break
                scanned = max(0, len(self._buffer) - len(END_OF_DATA) + 1)
                await self._more()
            with memoryview(self._buffer) as view:
                data = bytes(view[: end + 2])
            del self._buffer[: end + len(END_OF_DATA)]
        finally:
            self._reading_data = False
        if data.startswith(b"."):
            data = data[1:]
        return data.replace(b"\r\n.", b"\r\n")

    def _stuffed_dots(self, size: int) -> int:
        """Dots that transparency has added to the first ``size`` bytes: they do not count for a message's size."""
        return self._buffer.count(b"\r\n.", 0, size) + self._buffer.startswith(b".")

    async def _skip_data(self, end: int, limit: int) -> None:
        """Throw a message's data away up to its end, but at most as much again as was allowed."""
        thrown = 0
        while end < 0:
            keep = len(END_OF_DATA) - 1
            thrown += max(0, len(self._buffer) - keep)
            del self._buffer[:-keep]
            if thrown > 2 * limit:
                raise DataTooLarge(ended=False)
            await self._more()
            end = self._buffer.find(END_OF_DATA)
        del self._buffer[: end + len(END_OF_DATA)]

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
