"""The messages that every peer gets: the same bytes but for the Message-ID, since a repeat is not a second mail."""

from __future__ import annotations

import base64
import random
from typing import Final

SENDER: Final = "sender@example.com"
RECIPIENT: Final = "recipient@example.net"
SMALL_BYTES: Final = 2048
LARGE_BYTES: Final = 10_000_000

_HEAD: Final = (
    f"From: Example <{SENDER}>\r\nTo: {RECIPIENT}\r\nSubject: Reset your password\r\n"
    "Date: Mon, 02 Nov 2026 10:00:00 +0000\r\nMIME-Version: 1.0\r\n"
)
_LINK: Final = "Somebody asked for a new password. If it was you: https://example.com/reset\r\n"
_LINE: Final = "The link is good for an hour. If it was not you, you need not do anything.\r\n"


def small(size: int = SMALL_BYTES) -> bytes:
    """A plain-text message of about ``size`` bytes, without a Message-ID; ends without CRLF."""
    head = _HEAD + 'Content-Type: text/plain; charset="utf-8"\r\n\r\n'
    lines = max(0, (size - len(head) - len(_LINK)) // len(_LINE))
    return (head + _LINK + _LINE * lines).encode().rstrip(b"\r\n")


def large(size: int = LARGE_BYTES) -> bytes:
    """A text and one base64 attachment, about ``size`` bytes in all; ends without CRLF."""
    content = random.Random(1).randbytes(max(0, (size - 1000) * 57 // 78))
    lines = base64.encodebytes(content).replace(b"\n", b"\r\n")
    return (
        _HEAD.encode()
        + b'Content-Type: multipart/mixed; boundary="part"\r\n\r\n'
        + b"--part\r\nContent-Type: text/plain\r\n\r\nSee the file.\r\n"
        + b'--part\r\nContent-Type: application/pdf\r\nContent-Disposition: attachment; filename="a.pdf"\r\n'
        + b"Content-Transfer-Encoding: base64\r\n\r\n"
        + lines
        + b"--part--"
    )


def with_id(message: bytes, unique: str) -> bytes:
    return b"Message-ID: <" + unique.encode() + b"@bench.example>\r\n" + message
