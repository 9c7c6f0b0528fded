"""The data of one message: where it ends, its dots, its size (RFC 5321 sections 4.1.1.4 and 4.5.2).

Everything is done with the bytes as they come, each of which is looked at once: nothing is left to do for a large
message when its end has come, and what is over a limit is never held.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Final

CRLF: Final = b"\r\n"

END_OF_DATA: Final = b"\r\n.\r\n"
"""RFC 5321 section 4.1.1.4. Nothing else ends a message: not LF.LF, not LF.CRLF, not CR.CR (CVE-2023-51764)."""

_LINE_DOT: Final = END_OF_DATA[:3]
_MAY_BE_END: Final = (b"", b"\r", CRLF)
"""What stands behind the dot in ``END_OF_DATA``, or as much of it as has arrived."""

WINDOW: Final = 32 * 1024
"""Bytes that are searched at once."""


class DataTooLarge(Exception):
    """The message was larger than allowed; its data was thrown away. ``ended``: its end was seen."""

    def __init__(self, *, ended: bool) -> None:
        super().__init__()
        self.ended = ended


class NoRoom(Exception):
    """There was no room for the message among all uploads under way; its data was thrown away up to its end."""


class DataReader:
    """One message as it arrives."""

    def __init__(self, limit: int, *, reserve: Callable[[int], bool]) -> None:
        """``limit``: bytes that the message may have. ``reserve``: asked for each further number of bytes it needs.

        After the first no of ``reserve`` nothing is held any more, and it is not asked again.
        """
        self._limit = limit
        self._reserve = reserve
        # The CRLF of the DATA command counts as the first of END_OF_DATA: an empty message is ".CRLF".
        self._pending = bytearray(CRLF)
        # Gives its bytes away in the end; a bytearray would have to be copied.
        self._message = BytesIO()
        self._begun = False
        self._refusal: DataTooLarge | NoRoom | None = None
        self._thrown = 0

    def feed(self, data: bytes) -> bool:
        """Take what has arrived. True when no more is wanted: the end has come, or twice the limit was thrown away."""
        self._pending += data
        message = self._message
        known = message.tell()
        has_ended = cut_data(self._pending, message)
        if not self._begun and message.tell():
            # The CRLF of the DATA command is no part of the message.
            self._begun = True
            first = message.getvalue()
            message.seek(0)
            message.truncate()
            message.write(first[len(CRLF) :])
        size = message.tell()
        if self._refusal is None:
            if size > self._limit:
                self._refusal = DataTooLarge(ended=True)
            elif size > known and not self._reserve(size - known):
                self._refusal = NoRoom()
        elif not has_ended:
            self._thrown += size
            if self._thrown > 2 * self._limit:
                self._refusal = DataTooLarge(ended=False)
                return True
        if self._refusal is not None:
            message.seek(0)
            message.truncate()
        return has_ended

    @property
    def rest(self) -> bytearray:
        """What follows the end of data."""
        return self._pending

    def result(self) -> bytes:
        """The message, dots unstuffed. Raises ``DataTooLarge`` or ``NoRoom``."""
        if self._refusal is not None:
            raise self._refusal
        return self._message.getvalue()


def cut_data(buffer: bytearray, message: BytesIO) -> bool:
    """Move what is sure to belong to the message from ``buffer`` to ``message``, dots unstuffed; True at its end.

    Each byte is looked at once, as it comes, so that nothing is left to do for a large message when its end has come.
    What may be the beginning of ``END_OF_DATA`` stays in ``buffer``; at the end what follows it does.
    """
    start, following = 0, b""
    at = _find_line_dot(buffer, 0)
    with memoryview(buffer) as view:
        while at >= 0:
            following = bytes(buffer[at + len(_LINE_DOT) : at + len(END_OF_DATA)])
            if following in _MAY_BE_END:
                break
            message.write(view[start : at + len(CRLF)])
            start = at + len(_LINE_DOT)
            at = _find_line_dot(buffer, start)
        has_ended = at >= 0 and following == CRLF
        if has_ended:
            at += len(CRLF)
        elif at < 0:
            at = len(buffer) - (2 if buffer.endswith(CRLF) else buffer.endswith(b"\r"))
        message.write(view[start:at])
    del buffer[: at + len(END_OF_DATA) - len(CRLF) if has_ended else at]
    return has_ended


def _find_line_dot(buffer: bytearray, start: int) -> int:
    """Where ``_LINE_DOT`` is next, -1 for nowhere.

    A single byte is searched for many times faster than three, and most of a large message has no dot.
    """
    for begin in range(start, len(buffer), WINDOW):
        end = begin + WINDOW + len(_LINE_DOT) - 1
        if buffer.find(b".", begin, end) >= 0 and (at := buffer.find(_LINE_DOT, begin, end)) >= 0:
            return at
    return -1
