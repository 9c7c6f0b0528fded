"""Work on megabytes in pieces: while one C call runs no other thread does, so no call gets more than ``CHUNK``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

CHUNK: Final = 256 * 1024
"""Bytes or characters."""


def line_chunks(data: bytes) -> Iterator[bytes]:
    """``data`` in pieces of about ``CHUNK`` bytes that end in a line break; a longer line stays whole."""
    position, end = 0, len(data)
    while end - position > CHUNK:
        stop = data.rfind(b"\n", position, position + CHUNK) + 1 or data.find(b"\n", position + CHUNK) + 1
        if not stop:
            break
        yield data[position:stop]
        position = stop
    if position < end:
        yield data[position:] if position else data


def text_chunks(text: str) -> Iterator[str]:
    """``text`` in pieces of about ``CHUNK`` characters, cut between two lines that are not empty; "\\n" joins them."""
    position, end = 0, len(text)
    while end - position > CHUNK:
        stop = text.find("\n", position + CHUNK)
        while 0 < stop < end - 1 and "\n" in (text[stop - 1], text[stop + 1]):
            stop = text.find("\n", stop + 1)
        if not 0 < stop < end - 1:
            break
        yield text[position:stop]
        position = stop + 1
    yield text[position:] if position else text
