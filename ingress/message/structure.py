"""The MIME tree (RFC 2045, RFC 2046), read without recursion deeper than ``MAX_DEPTH`` and with bounded parts."""

from __future__ import annotations

import binascii
import quopri
import re
from dataclasses import dataclass, field
from typing import Final

import pybase64

from ingress.message.headers import Headers, decode_text, parse_headers, parse_parameters
from ingress.replies import Replies

MAX_DEPTH: Final = 30
MAX_PARTS: Final = 1000
MAX_HEADER_BYTES: Final = 1024 * 1024
MAX_HEADERS: Final = 2000

_HEADER_END: Final = re.compile(rb"\r?\n\r?\n")
_NOT_BASE64: Final = bytes(set(range(256)) - set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="))
_META_CHARSET: Final = re.compile(rb"""<meta[^>]+charset\s*=\s*["']?([\w.:-]+)""", re.IGNORECASE)


@dataclass(slots=True, kw_only=True)
class Part:
    """One MIME part. ``body`` is still transfer-encoded; ``children`` are those of a multipart."""

    headers: Headers
    content_type: str
    """Lower case, ``text/plain`` where missing or unreadable."""
    parameters: dict[str, str]
    disposition: str
    """``attachment``, ``inline`` or ""."""
    disposition_parameters: dict[str, str]
    body: bytes = field(repr=False)
    children: list[Part] = field(default_factory=list)

    @property
    def encoding(self) -> str:
        return self.headers.get("content-transfer-encoding").strip().lower()

    @property
    def content_id(self) -> str:
        return re.sub(r"[<>\s]", "", self.headers.get("content-id"))

    @property
    def filename(self) -> str:
        return self.disposition_parameters.get("filename") or self.parameters.get("name") or ""

    @property
    def is_attachment(self) -> bool:
        """Whether the part is a file rather than text to be read."""
        if self.content_type not in ("text/plain", "text/html"):
            return True
        return self.disposition == "attachment" or bool(self.filename)

    def data(self) -> bytes:
        """The body, transfer-decoded; errors in the encoding lose as little as possible."""
        if self.encoding == "base64":
            return decode_base64(self.body)
        if self.encoding == "quoted-printable":
            return quopri.decodestring(self.body)
        return self.body

    def base64(self) -> str:
        """The decoded body as base64; the sender's own base64 is used where it is sound."""
        if self.encoding == "base64":
            compact = self.body.translate(None, b"\r\n \t")
            if len(compact) % 4 == 0 and not compact.translate(None, _NOT_BASE64_KEEP) and b"=" not in compact[:-2]:
                return compact.decode("ascii")
        return pybase64.b64encode_as_string(self.data())

    def text(self) -> str:
        """The decoded body as text: by its charset, an HTML page's own, UTF-8 or Windows-1252."""
        data = self.data()
        charset = self.parameters.get("charset", "")
        if not charset and self.content_type == "text/html" and (found := _META_CHARSET.search(data[:4096])):
            charset = found[1].decode("ascii", "replace")
        text = decode_text(data, charset).removeprefix("\ufeff").replace("\0", "")
        return text.replace("\r\n", "\n").replace("\r", "\n")


_NOT_BASE64_KEEP: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="


def decode_base64(body: bytes) -> bytes:
    """Bytes of a base64 body with junk, wrong or missing padding tolerated, as mail readers do."""
    compact = body.translate(None, _NOT_BASE64).rstrip(b"=").replace(b"=", b"")
    if len(compact) % 4 == 1:
        compact = compact[:-1]
    try:
        return pybase64.b64decode(compact + b"=" * (-len(compact) % 4))
    except binascii.Error:
        return b""


def parse_structure(raw: bytes) -> Part:
    """The tree of a message. Raises ``SmtpError`` 554 when it is too deep, has too many parts or too long headers."""
    count = 0

    def read(block: bytes, depth: int, default: str) -> Part:
        nonlocal count
        count += 1
        if count > MAX_PARTS:
            raise Replies.MESSAGE_TOO_COMPLEX.error(reason=f"more than {MAX_PARTS} parts")
        if depth > MAX_DEPTH:
            raise Replies.MESSAGE_TOO_COMPLEX.error(reason=f"parts nested more than {MAX_DEPTH} deep")
        head, body = _split_head(block)
        headers = parse_headers(head)
        if len(headers.fields) > MAX_HEADERS:
            raise Replies.MESSAGE_TOO_COMPLEX.error(reason=f"more than {MAX_HEADERS} headers")
        content_type, parameters = parse_parameters(headers.get("content-type"))
        if "/" not in content_type:
            content_type = default
        disposition, disposition_parameters = parse_parameters(headers.get("content-disposition"))
        part = Part(
            headers=headers,
            content_type=content_type,
            parameters=parameters,
            disposition=disposition,
            disposition_parameters=disposition_parameters,
            body=body,
        )
        if content_type.startswith("multipart/"):
            child_default = "message/rfc822" if content_type == "multipart/digest" else "text/plain"
            blocks = _split_multipart(body, parameters.get("boundary", ""))
            part.children = [read(child, depth + 1, child_default) for child in blocks]
            if not part.children:
                # No boundary, or one that never comes: its text must not vanish.
                part.content_type = "text/plain"
        return part

    return read(raw, 0, "text/plain")


def _split_head(block: bytes) -> tuple[bytes, bytes]:
    start = 0
    # A BOM or empty lines before the first header.
    if block.startswith(b"\xef\xbb\xbf"):
        start = 3
    if block[start : start + 2] == b"\r\n" or block[start : start + 1] == b"\n":
        stripped = block[start:].lstrip(b"\r\n")
        first = stripped.partition(b"\n")[0]
        if start == 0 and not re.match(rb"[\x21-\x39\x3b-\x7e]+[ \t]*:", first):
            return b"", block[2 if block.startswith(b"\r\n") else 1 :]
        block, start = stripped, 0
    found = _HEADER_END.search(block, start, start + MAX_HEADER_BYTES)
    if found:
        return block[start : found.start()], block[found.end() :]
    if len(block) - start > MAX_HEADER_BYTES:
        raise Replies.MESSAGE_TOO_COMPLEX.error(reason=f"headers longer than {MAX_HEADER_BYTES} bytes")
    return block[start:], b""


def _split_multipart(body: bytes, boundary: str) -> list[bytes]:
    """The blocks between the boundary's lines; preamble and epilogue are left out, a missing last line is forgiven."""
    if not boundary:
        return []
    delimiter = b"--" + boundary.encode("utf-8")
    blocks: list[bytes] = []
    start: int | None = None
    found = body.find(delimiter)
    while found >= 0:
        after = found + len(delimiter)
        newline = body.find(b"\n", after)
        line_end = len(body) if newline < 0 else newline
        rest = body[after : min(line_end, after + 100)].strip(b" \t\r")
        # The delimiter is a whole line, or it is text that happens to begin like one.
        if (found == 0 or body[found - 1 : found] == b"\n") and rest in (b"", b"--"):
            if start is not None:
                blocks.append(body[start : max(start, _before_newline(body, found))])
            start = None if rest or newline < 0 else newline + 1
            if rest:
                break
        found = body.find(delimiter, after)
    if start is not None:
        blocks.append(body[start:])
    return blocks


def _before_newline(body: bytes, position: int) -> int:
    """Where the line break before ``position`` begins: it belongs to the delimiter (RFC 2046 section 5.1.1)."""
    if body[position - 2 : position] == b"\r\n":
        return position - 2
    return position - 1
