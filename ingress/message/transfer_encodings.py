"""Content transfer encodings (RFC 2045 section 6, uuencode): errors in them lose as little as possible."""

from __future__ import annotations

import binascii
import re
import sys
from collections.abc import Callable
from typing import Final

import pybase64

from ingress.message.chunks import CHUNK, line_chunks

_NOT_BASE64: Final = bytes(set(range(256)) - set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"))
_PADDING: Final = re.compile(rb"[=\s]*")
_PIECE: Final = re.compile(rb"[^=]+=*")
_LINE: Final = re.compile(rb"[^\r\n]+")
_BASE64_LINE: Final = re.compile(rb"[ \t]*[A-Za-z0-9+/]+=*[ \t]*")
_TRAILING_SPACE: Final = re.compile(rb"(?<![ \t])[ \t]++(?=\r*+\n|\Z)")
_HAS_TRAILING_SPACE: Final = re.compile(rb"\n(?:(?<=[ \t]\n)|(?<=[ \t]\r\n))")
_UNUSUAL_END: Final = re.compile(rb"\n(?<![\S\n]\r\n)")
"""A line that does not end in a character and CRLF; as those above it begins with what a search is quick for."""
_LINE_BREAK: Final = re.compile(rb"(?<!\r)\r++\n|\r")
_UU_BEGIN: Final = re.compile(rb"^begin(?:-base64)? [0-7]{3,4} ?([^\r\n]*)\r?\n", re.MULTILINE)


def decode_base64(raw: bytes, start: int = 0, end: int = sys.maxsize) -> bytes:
    """Bytes of the base64 body ``raw[start:end]``, which may be megabytes and is not copied.

    Junk is passed over, padding may be wrong, missing, or stand between several pieces.
    """
    padding = raw.find(b"=", start, end)
    if padding < 0 or not raw[padding:end].strip(b"=\r\n \t\0"):
        return _decode_piece(memoryview(raw)[start:end] if start or end < len(raw) else raw)
    # What follows padding is a further piece; a line that cannot be base64 is a footer that some list server added.
    further = bytearray()
    for line in _LINE.finditer(raw, _PADDING.match(raw, padding, end).end(), end):  # type: ignore[union-attr]
        if _BASE64_LINE.fullmatch(line[0]):
            further += line[0].strip()
    decoded = bytearray(_decode_piece(memoryview(raw)[start:padding]))
    for piece in _PIECE.finditer(further):
        decoded += _decode_piece(piece[0])
    return bytes(decoded)


def _decode_piece(piece: bytes | memoryview) -> bytes:
    try:
        return pybase64.b64decode(piece)
    except binascii.Error:
        compact = bytes(piece).translate(None, _NOT_BASE64)
        if len(compact) % 4 == 1:
            compact = compact[:-1]
        return pybase64.b64decode(compact + b"=" * (-len(compact) % 4))


def decode_quoted_printable(body: bytes) -> bytes:
    """Bytes of a quoted-printable body. White space at the end of a line is not the sender's (RFC 2045 section 6.7)."""
    if len(body) <= CHUNK:
        return _decode_quoted_lines(body)
    return b"".join(map(_decode_quoted_lines, line_chunks(body)))


def _decode_quoted_lines(lines: bytes) -> bytes:
    if lines[-1:] in (b" ", b"\t") or (_UNUSUAL_END.search(lines) and _HAS_TRAILING_SPACE.search(lines)):
        lines = _TRAILING_SPACE.sub(b"", lines)
    return binascii.a2b_qp(lines)


def shorten_line_breaks(text: bytes) -> bytes:
    """CRLF and bare CR as LF; several CRs before an LF are one line break: some programs turn LF into CRLF twice."""
    if b"\r" not in text:
        return text
    return _shorten(text) if len(text) <= CHUNK else b"".join(map(_shorten, line_chunks(text)))


def _shorten(lines: bytes) -> bytes:
    shortened = lines.replace(b"\r\n", b"\n")
    # A CR that is left stood alone, or before another one.
    return _LINE_BREAK.sub(b"\n", lines) if b"\r" in shortened else shortened


def decode_uuencoded(body: bytes) -> bytes:
    """Bytes of the first uuencoded file in ``body``; the body as it is where there is none."""
    begin = _UU_BEGIN.search(body)
    if begin is None:
        return body
    pieces = []
    for line in body[begin.end() :].split(b"\n"):
        line = line.rstrip(b"\r")
        if line == b"end":
            break
        if not line:
            continue
        try:
            pieces.append(binascii.a2b_uu(line))
        except binascii.Error:
            # Some encoders write a wrong length or lose trailing spaces: what the length byte promises is taken.
            needed = (((line[0] - 32) & 63) * 4 + 5) // 3
            try:
                pieces.append(binascii.a2b_uu(line[:needed].ljust(needed)))
            except binascii.Error:
                continue
    return b"".join(pieces)


def uuencoded_name(body: bytes) -> bytes:
    """The file name of the first uuencoded file in ``body``, b"" where there is none."""
    begin = _UU_BEGIN.search(body)
    return begin[1].strip() if begin else b""


DECODERS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "base64": decode_base64,
    "quoted-printable": decode_quoted_printable,
    "quotedprintable": decode_quoted_printable,
    "quoted_printable": decode_quoted_printable,
    "x-uuencode": decode_uuencoded,
    "x-uue": decode_uuencoded,
    "uuencode": decode_uuencoded,
    "uue": decode_uuencoded,
}
"""By the name in Content-Transfer-Encoding, lower case; any other (7bit, 8bit, binary) leaves the body alone."""
