"""The MIME tree (RFC 2045, RFC 2046): one pass over the bytes with a stack of open boundaries, innermost first.

Nothing here recurses, and every byte is looked at a bounded number of times, whatever the message says about itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from ingress.message.charsets import decode_text
from ingress.message.headers import Field, Headers, parse_headers, parse_parameters, usual_fields
from ingress.message.patterns import compile_pattern
from ingress.message.transfer_encodings import DECODERS, decode_base64, shorten_line_breaks, uuencoded_name
from ingress.replies import Replies

MAX_DEPTH: Final = 30
MAX_PARTS: Final = 1000
MAX_HEADER_BYTES: Final = 1024 * 1024
MAX_HEADERS: Final = 2000
USUAL_HEADER_BYTES: Final = 4096
"""Where the end of a part's headers is looked for first."""
BLANK_LINE: Final = b"\r\n\r\n"
"""What ends the headers of usual parts."""
FEW_DASHES: Final = 16
"""Dashes that are looked at one by one before the next delimiter is searched for by a pattern."""
MAX_BOUNDARY: Final = 200
"""Longest boundary in bytes, dashes and white space included (RFC 2046 allows 70)."""

_HEADER_END: Final = re.compile(rb"\n\r*+\n")
_DASHES: Final = re.compile(rb"\n--([^\n]*)")
_BEFORE_HEADERS: Final = compile_pattern(rb"(?:\xef\xbb\xbf)?(?:[ \t]*+\r?\n)*+(?=[!-9;-~]++[ \t]*+:)")
_META_CHARSET: Final = re.compile(rb"<meta[^<>]{1,300}?charset\s*=\s*[\"']?\s*([\w.:-]{2,40})", re.IGNORECASE)
_NOT_IN_ID: Final = re.compile(r"[<>\s\x00-\x1f\x7f]+")
_TOKEN: Final = re.compile(r"[a-z0-9_-]+")
_LINE_BREAK: Final = re.compile(r"(?<!\r)\r++\n|\r")
_LOOKS_LIKE_HTML: Final = re.compile(rb"\s*<(?:!doctype html|html|head|body)\b", re.IGNORECASE)


NO_PARAMETERS: Final[Mapping[str, str]] = {}
"""Those of a header that is not there."""


class Part:
    """One MIME part: its decoded headers, and where its body, still transfer-encoded, lies in the message."""

    __slots__ = (
        "_raw",
        "_text",
        "children",
        "content_type",
        "disposition",
        "disposition_parameters",
        "encoding",
        "end",
        "headers",
        "inside",
        "is_multipart",
        "is_type_unreadable",
        "parameters",
        "start",
        "within",
    )

    inside: tuple[str, ...]

    def __init__(self, raw: bytes, fields: list[Field], start: int, parent: Part | None) -> None:
        self._raw = raw
        self._text: str | None = None
        self.headers = headers = Headers(fields)
        self.start = start
        self.end = len(raw)
        # Types alone, not the parents themselves: a tree without cycles is freed as soon as it is done with.
        self.within: tuple[str, ...] = parent.inside if parent is not None else ()
        """Types of the multiparts around it, innermost first."""
        self.children: list[Part] = []
        header = headers.first.get
        declared = header("content-type")
        content_type, self.parameters = parse_parameters(declared) if declared else ("", NO_PARAMETERS)
        self.is_type_unreadable = False
        """Whether it says a type that is none: good enough for a text to be read, but no file is taken for a text."""
        if "/" not in content_type:
            in_digest = self.within[:1] == ("multipart/digest",)
            self.is_type_unreadable = not in_digest and bool(declared)
            content_type = "message/rfc822" if in_digest else "text/plain"
        self.content_type = content_type
        """Lower case, ``text/plain`` where missing or unreadable."""
        self.is_multipart = content_type.startswith("multipart/")
        """As its headers say, also where no delimiter comes and it is read as a text."""
        self.inside = (content_type, *self.within) if self.is_multipart else ()
        """``within`` of its children."""
        disposition = header("content-disposition")
        self.disposition, self.disposition_parameters = (
            parse_parameters(disposition) if disposition else ("", NO_PARAMETERS)
        )
        """``attachment``, ``inline``, "" or what else the part says."""
        encoding = header("content-transfer-encoding", "").lower()
        if encoding and encoding not in DECODERS:
            token = _TOKEN.search(encoding)
            encoding = token[0] if token else ""
        self.encoding = encoding
        """Lower case, "" where missing."""

    @property
    def is_blank(self) -> bool:
        """Whether a text has nothing to read in it."""
        text = self.text()
        return not text or text.isspace()

    @property
    def body(self) -> bytes:
        return self._raw[self.start : self.end]

    @property
    def content_id(self) -> str:
        return bare_id(self.headers.get("content-id"))

    @property
    def filename(self) -> str:
        """The name as the sender wrote it, decoded, not yet cleaned; "" where there is none."""
        name = self.disposition_parameters.get("filename") or self.parameters.get("name") or ""
        if not name and DECODERS.get(self.encoding) is DECODERS["uuencode"]:
            return decode_text(uuencoded_name(self.body), "")
        return name

    def data(self) -> bytes:
        """The body, transfer-decoded; errors in the encoding lose as little as possible."""
        decoder = DECODERS.get(self.encoding)
        if decoder is decode_base64:
            return decode_base64(self._raw, self.start, self.end)
        return decoder(self.body) if decoder else self.body

    def text(self) -> str:
        """The decoded body as text: by its charset, an HTML page's own, UTF-8 or Windows-1252; lines end in ``\\n``."""
        if self._text is None:
            charset = self.parameters.get("charset", "")
            is_wide = charset[:5].lower() in ("utf-1", "utf-3")
            data = self.data()
            if not is_wide and data[:2] in (b"\xff\xfe", b"\xfe\xff"):
                charset, is_wide = "utf-16", True
            if not is_wide:
                # While they are bytes, which is quickest.
                data = shorten_line_breaks(data)
            if self.content_type == "text/html" and charset.lower() in ("", "us-ascii"):
                # What comes first in a page speaks for it: a meta element past 4 KB is not looked for.
                found = _META_CHARSET.search(data, 0, 4096)
                charset = found[1].decode("ascii", "replace") if found else charset
            text = decode_text(data, charset).removeprefix("\ufeff")
            if "\r" in text:
                text = _LINE_BREAK.sub("\n", text)
            self._text = text.replace("\0", "") if "\0" in text else text
        return self._text


def bare_id(value: str) -> str:
    """A Content-ID without its angle brackets, white space and control characters."""
    return _NOT_IN_ID.sub("", value) if value else ""


def parse_structure(raw: bytes) -> list[Part]:
    """The parts of a message in order, the message itself first; ``children`` make them a tree.

    Raises ``SmtpError`` 554 when it is nested too deep, or has too many parts or headers.
    """
    return _Reader(raw).read()


class _Reader:
    """The state of one pass: where the search goes on, and the multiparts that are open, outermost first."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._parts: list[Part] = []
        self._multiparts: list[Part] = []
        self._from = 0
        """Where the next line of dashes is looked for."""
        self._open: list[_Multipart] = []
        # The multiparts of _open by boundary: a delimiter belongs to the innermost that is not closed yet.
        self._running: dict[bytes, list[_Multipart]] = {}
        self._closed: dict[bytes, list[_Multipart]] = {}

    def read(self) -> list[Part]:
        raw = self._raw
        part = self._usual_part(0, None) or self._first_part()
        if part.is_multipart:
            # The first delimiter may follow the blank line at once.
            self._from = max(0, part.start - 1)
            self._push(part)
            self._read_multiparts(part)
            for multipart in self._multiparts:
                if not multipart.children:
                    # No boundary, or one that never comes: its text must not vanish.
                    is_html = _LOOKS_LIKE_HTML.match(raw, multipart.start)
                    multipart.content_type = "text/html" if is_html else "text/plain"
        return self._parts

    def _usual_part(self, start: int, parent: Part | None) -> Part | None:
        """The part whose headers begin at ``start``, if they are as nearly all are and soon end; else None."""
        stop = self._raw.find(BLANK_LINE, start, start + USUAL_HEADER_BYTES)
        fields = usual_fields(self._raw[start:stop]) if stop > start else None
        return self._add(fields, stop + len(BLANK_LINE), parent) if fields is not None else None

    def _first_part(self) -> Part:
        """The message itself, whatever its headers are like."""
        raw = self._raw
        before = _BEFORE_HEADERS.match(raw)
        start = before.end() if before else 0
        head = _HEADER_END.search(raw, start, start + MAX_HEADER_BYTES)
        if head is None and len(raw) - start > MAX_HEADER_BYTES:
            raise Replies.MESSAGE_TOO_COMPLEX.error(reason=f"headers longer than {MAX_HEADER_BYTES} bytes")
        end, body = (head.start(), head.end()) if head else (len(raw), len(raw))
        dashes = _DASHES.search(raw, start, end)
        if dashes and self._declares(start, dashes.start(), dashes.end()):
            end, body = self._before(dashes.start()), dashes.start() + 1
        return self._add_with_head(start, end, body, None)

    def _next_line(self) -> int:
        """Where the next line break before two dashes is, -1 where none is; ``_from`` is where their line ends."""
        raw, at = self._raw, self._from
        # A single byte is searched for many times faster than a line's beginning, and most texts have few dashes.
        for _ in range(FEW_DASHES):
            at = raw.find(b"-", at + 1)
            if at < 0:
                self._from = len(raw)
                return -1
            if raw[at - 1 : at + 2] == b"\n--":
                end = raw.find(b"\n", at)
                self._from = end if end >= 0 else len(raw)
                return at - 1
        line = _DASHES.search(raw, at)
        self._from = line.end() if line is not None else len(raw)
        return line.start() if line is not None else -1

    def _read_multiparts(self, current: Part | None) -> None:
        """``current`` is the part whose body, or preamble, is being read; None in an epilogue."""
        raw = self._raw
        while (line := self._next_line()) >= 0:
            multipart, closes = self._whose(line, self._from)
            if multipart is None:
                if not self._adopt(line, self._from, current):
                    continue
                multipart = self._open[-1]
            if closes and not multipart.part.children:
                # It closes what never began; what stands around it is text.
                continue
            end = self._before(line)
            if current is not None:
                current.end = end if end > current.start else current.start
            while self._open[-1] is not multipart:
                inner = self._open.pop()
                inner.part.end = max(inner.part.start, end)
                self._forget(inner)
            if closes:
                self._close(multipart)
                current = None
            else:
                if multipart.closed:
                    # Parts after the closing delimiter: it came too early.
                    self._reopen(multipart)
                current = self._child(multipart.part, self._from)
                if current.is_multipart:
                    self._push(current)
                elif current.encoding == "base64":
                    # Its alphabet has no dash: looking for one alone is several times faster.
                    dash = raw.find(b"-", self._from)
                    self._from = max(self._from, dash - 1) if dash >= 0 else len(raw)

    def _whose(self, start: int, end: int) -> tuple[_Multipart | None, bool]:
        """The multipart whose delimiter a line is, None when it is text, and whether it is the closing one."""
        if end - start > MAX_BOUNDARY:
            return None, False
        boundary = self._raw[start + 3 : end].rstrip()
        if found := self._running.get(boundary) or self._closed.get(boundary):
            return found[-1], False
        if boundary.endswith(b"--") and (found := self._running.get(boundary[:-2])):
            return found[-1], True
        return None, False

    def _adopt(self, start: int, end: int, current: Part | None) -> bool:
        """Take a line for the delimiter of a multipart that has found none of its own, if MIME headers follow it."""
        multipart = self._open[-1]
        boundary = self._raw[start + 3 : end].rstrip()
        if current is not multipart.part or current.children or not boundary or len(boundary) > MAX_BOUNDARY:
            return False
        if self._raw[end + 1 : end + 9].lower() != b"content-":
            return False
        multipart.boundaries.append(boundary)
        self._running.setdefault(boundary, []).append(multipart)
        return True

    def _push(self, part: Part) -> None:
        if len(self._open) >= MAX_DEPTH:
            raise Replies.MESSAGE_TOO_COMPLEX.error(reason=f"parts nested more than {MAX_DEPTH} deep")
        boundary = part.parameters.get("boundary", "").rstrip().encode("utf-8", "replace")
        multipart = _Multipart(part, [boundary] if boundary else [])
        self._multiparts.append(part)
        self._open.append(multipart)
        for boundary in multipart.boundaries:
            self._running.setdefault(boundary, []).append(multipart)

    def _close(self, multipart: _Multipart) -> None:
        multipart.closed = True
        for boundary in multipart.boundaries:
            self._running[boundary].remove(multipart)
            self._closed.setdefault(boundary, []).append(multipart)

    def _reopen(self, multipart: _Multipart) -> None:
        multipart.closed = False
        for boundary in multipart.boundaries:
            self._closed[boundary].remove(multipart)
            self._running.setdefault(boundary, []).append(multipart)

    def _forget(self, multipart: _Multipart) -> None:
        table = self._closed if multipart.closed else self._running
        for boundary in multipart.boundaries:
            table[boundary].remove(multipart)

    def _child(self, parent: Part, position: int) -> Part:
        """The part whose headers begin after the line break at ``position``.

        They end at a blank line, or at the next delimiter where there is no blank line; each byte is searched once.
        """
        if (part := self._usual_part(position + 1, parent)) is not None:
            self._from = part.start - 1
            return part
        raw = self._raw
        start = min(position + 1, len(raw))
        head = _HEADER_END.search(raw, position, position + USUAL_HEADER_BYTES)
        if head is not None and raw.find(b"\n--", position, head.start() + 1) < 0:
            # A blank line soon, and no delimiter before it.
            self._from = head.end() - 1
            return self._add_with_head(start, head.start(), head.end(), parent)
        limit = position + MAX_HEADER_BYTES
        first = True
        while True:
            line = self._next_line()
            stop = line + 1 if line >= 0 else len(raw)
            head = _HEADER_END.search(raw, position, min(stop, limit))
            if head is None and stop > limit:
                raise Replies.MESSAGE_TOO_COMPLEX.error(reason=f"headers longer than {MAX_HEADER_BYTES} bytes")
            if line < 0:
                end, body = (head.start(), head.end()) if head is not None else (stop, stop)
                return self._add_with_head(start, end, body, parent)
            line_end = self._from
            # Whatever the line is, it is looked at again, and found at once, when the part's body is read.
            self._from = line
            if head is not None:
                return self._add_with_head(start, head.start(), head.end(), parent)
            if self._whose(line, line_end)[0] is not None or (first and self._declares(start, line, line_end)):
                end = max(start, self._before(line))
                return self._add_with_head(start, end, end, parent)
            position, first, self._from = line, False, line_end

    def _declares(self, start: int, line: int, line_end: int) -> bool:
        """Whether the headers from ``start`` on name the boundary in the line at ``line``, which then ends them."""
        boundary = self._raw[line + 3 : line_end].rstrip()
        if not 0 < len(boundary) <= MAX_BOUNDARY:
            return False
        head = self._raw[start:line]
        return boundary in head and b"boundary" in head.lower()

    def _add_with_head(self, start: int, head_end: int, body: int, parent: Part | None) -> Part:
        """A part whose headers lie between ``start`` and ``head_end``; ``body`` is where its text begins."""
        if start >= head_end:
            return self._add([], body, parent)
        fields, length = parse_headers(self._raw[start:head_end], resume_at="" if parent is None else "content-")
        if len(fields) > MAX_HEADERS:
            # So many do not fit into a usual part's headers.
            raise Replies.MESSAGE_TOO_COMPLEX.error(reason=f"more than {MAX_HEADERS} headers")
        return self._add(fields, body if start + length >= head_end else start + length, parent)

    def _add(self, fields: list[Field], start: int, parent: Part | None) -> Part:
        if len(self._parts) >= MAX_PARTS:
            raise Replies.MESSAGE_TOO_COMPLEX.error(reason=f"more than {MAX_PARTS} parts")
        part = Part(self._raw, fields, start, parent)
        self._parts.append(part)
        if parent is not None:
            parent.children.append(part)
        return part

    def _before(self, position: int) -> int:
        """Where the line break at ``position`` begins: it belongs to the delimiter (RFC 2046 section 5.1.1)."""
        return position - 1 if position and self._raw[position - 1] == 0x0D else position


class _Multipart:
    """A multipart that is on the stack: its part, the boundaries it goes by, and whether its closing one has come."""

    __slots__ = ("boundaries", "closed", "part")

    def __init__(self, part: Part, boundaries: list[bytes]) -> None:
        self.part = part
        self.boundaries = boundaries
        self.closed = False
