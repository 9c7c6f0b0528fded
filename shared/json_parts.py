"""The JSON of an API call in parts: what is base64 in it is held, and stored, as the bytes that it stands for.

A large call is nearly all attachments. Held as bytes they are a quarter smaller, in memory, on the way to Redis and on
its disk; whoever posts the call encodes them, which takes a fraction of a millisecond a megabyte.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import pybase64


class Kind(StrEnum):
    """What a piece stands for; one letter each, as they are stored."""

    JSON = "j"
    """Itself."""
    BASE64 = "b"
    """Its base64."""


KINDS: Final = frozenset(Kind)


@dataclass(frozen=True, slots=True)
class Base64:
    """Bytes in whose place the JSON has their base64."""

    data: bytes

    def __len__(self) -> int:
        return base64_length(len(self.data))


class JsonParts:
    """The parts in order. ``len()`` and ``bytes()`` are those of the JSON that they make."""

    __slots__ = ("_length", "parts")

    def __init__(self, parts: Iterable[bytes | Base64]) -> None:
        self.parts = tuple(parts)
        self._length = sum(map(len, self.parts))

    def __len__(self) -> int:
        return self._length

    def __bytes__(self) -> bytes:
        return b"".join(pybase64.b64encode(p.data) if isinstance(p, Base64) else p for p in self.parts)


def cut(call: bytes | JsonParts, limit: int) -> Iterator[tuple[Kind, memoryview]]:
    """The pieces of a call, none longer than ``limit`` bytes (at least 3); ``join`` makes the call of them again."""
    parts: Sequence[bytes | Base64] = (call,) if isinstance(call, bytes) else call.parts
    for part in parts:
        kind, data, step = Kind.JSON, part, limit
        if isinstance(part, Base64):
            # Three bytes are four characters: cut elsewhere, each piece would be padded.
            kind, data, step = Kind.BASE64, part.data, limit - limit % 3
        view = memoryview(data)  # type: ignore[arg-type]
        for start in range(0, len(view), step):
            yield kind, view[start : start + step]


def join(pieces: Iterable[tuple[Kind, bytes]]) -> bytes:
    """The call whose pieces these are."""
    return b"".join(pybase64.b64encode(data) if kind is Kind.BASE64 else data for kind, data in pieces)


def base64_length(size: int) -> int:
    """Characters of the base64 of so many bytes."""
    return -(-size // 3) * 4


SMALL: Final = 64 * 1024
"""Bytes of an attachment up to which it is not worth a part of its own."""
