"""Header fields: cut from the bytes, unfolded, their encoded words (RFC 2047) and parameters (RFC 2231) decoded."""

from __future__ import annotations

import binascii
import functools
import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote_to_bytes

from ingress.message.charsets import decode_text
from ingress.message.patterns import compile_pattern
from ingress.message.transfer_encodings import decode_base64

_NAME: Final = re.compile(r"(?!--)[!-9;-~]+")
"""A name in a usual block; what begins with two dashes may be a delimiter, and is looked at as one."""
_FIELD: Final = compile_pattern(r"^([!-9;-~]++)[ \t]*+:[ \t]*+(.*+(?:\n[ \t].*+)*+)", re.MULTILINE)
_CHARSET: Final = re.compile(r"charset\s*+=\s*+[\"']?([\w.:+-]{2,40})", re.IGNORECASE)
_ENCODED_WORD: Final = compile_pattern(
    r"=\?([^?\s*]{1,80})(?:\*[^?\s]*)?\?([bBqQ])\?([^?=\n]*+(?:(?:=(?!\?[^=])|\?(?!=))[^?=\n]*+)*+)\?="
)
_PARAMETER: Final = compile_pattern(
    r"""(?:;\s*+|(?<=\S)\s++)([^\s=;"]++)\s*+=\s*+"""
    r"""(?:"((?:\\.|[^"\\])*+)"(?=\s*+(?:;|\Z|[\w*-]++=))|([^;]*+))""",
    re.DOTALL,
)
_SIMPLE: Final = compile_pattern(
    r"""\s*+([^\s;="']++)(?:\s*+;\s*+([A-Za-z-]++)(?:\s*+=\s*+(?:"([^"\\]*+)"|([^\s;"'(]++))"""
    r"""|\*=([^\s;"'(]*+)'[^\s;"'(]*+'([^\s;"'(]++)))?+\s*+;?+\s*+"""
)
"""A value with one parameter or none, as most are; the last two groups are the charset and text of ``key*=``."""
_PERCENT_ENCODED: Final = compile_pattern(r"(?:[^%]++|%[0-9A-Fa-f]{2})*+")
_NAMES: Final = ("filename", "name")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]+")
USUAL_VALUE: Final = 40
"""Longest value, as ``text/plain; charset="utf-8"``, whose parameters are remembered."""
MAX_NUMBER_DIGITS: Final = 6
"""Most digits of a continuation's number (RFC 2231) that are read."""

Field = tuple[str, str, str]
"""A header field: its name in lower case, its name as written, and its value, raw but unfolded."""

USUAL_NAMES: Final = {
    name: name.lower()
    for name in (
        *("From", "To", "Cc", "Bcc", "Reply-To", "Sender", "Subject", "Date", "Received", "Return-Path"),
        *("Message-ID", "Message-Id", "In-Reply-To", "References", "MIME-Version", "Mime-Version"),
        *("Content-Type", "Content-Transfer-Encoding", "Content-Disposition", "Content-ID", "Content-Id"),
        *("Content-Description", "Content-Language", "X-Attachment-Id", "X-Mailer", "User-Agent", "X-Priority"),
        *("Importance", "Precedence", "Auto-Submitted", "List-Unsubscribe", "List-Unsubscribe-Post", "List-Id"),
        *("Organization", "Feedback-ID", "DKIM-Signature", "X-Originating-IP", "Thread-Topic", "Thread-Index"),
    )
}
"""Lower-case names of the headers that most mail has, by the way in which most of it writes them."""

NO_FIELDS: Final[dict[str, list[str]]] = {}


class Headers:
    """The fields of one part in order; values are raw, unfolded text."""

    __slots__ = ("_repeated", "fields", "first")

    def __init__(self, fields: list[Field]) -> None:
        self.fields = fields
        self.first = {key: value for key, _, value in fields}
        """By lower-case name the value of the first field of that name that has one, "" where none has."""
        self._repeated = _gather_repeated(self.first, fields) if len(self.first) < len(fields) else NO_FIELDS

    def get(self, name: str) -> str:
        """Raw value of the first field of that name (lower case) that has one, "" where there is none."""
        return self.first.get(name, "")

    def get_all(self, name: str) -> list[str]:
        if name in self._repeated:
            return self._repeated[name]
        return [self.first[name]] if name in self.first else []


def _gather_repeated(first: dict[str, str], fields: list[Field]) -> dict[str, list[str]]:
    """All values of the fields that occur several times, empty ones left out; ``first`` is filled anew."""
    repeated: dict[str, list[str]] = {}
    first.clear()
    for key, _, value in fields:
        if key not in first:
            first[key] = value
        elif value:
            repeated.setdefault(key, [first[key]]).append(value)
            # An empty field does not hide the one that says something.
            first[key] = first[key] or value
    return repeated


def usual_fields(block: bytes) -> list[Field] | None:
    """The fields of a header block that is as nearly all are, in half the time that ``parse_headers`` takes for them.

    None of any other: one that is no UTF-8, or holds a NUL, a line that ends without a CR, or one that is no field.
    """
    try:
        text = block.decode()
    except UnicodeDecodeError:
        return None
    lines = text.split("\r\n")
    if text.count("\n") >= len(lines) or "\0" in text:
        return None
    fields: list[Field] = []
    folds: list[str] = []
    for line in lines:
        name, colon, value = line.partition(":")
        key = USUAL_NAMES.get(name)
        if key is None or not colon:
            if fields and line[:1] in (" ", "\t"):
                folds.append(line)
                continue
            if not colon or not _NAME.fullmatch(name):
                return None
            key = name.lower()
        if folds:
            _unfold(fields, folds)
        fields.append((key, name, value.lstrip(" \t")))
    if folds:
        _unfold(fields, folds)
    return fields


def _unfold(fields: list[Field], folds: list[str]) -> None:
    """Append to the last field's value the lines that belong to it, and clear them."""
    key, name, value = fields[-1]
    fields[-1] = (key, name, value + "".join(folds))
    folds.clear()


def parse_headers(block: bytes, *, resume_at: str = "") -> tuple[list[Field], int]:
    """The fields of a header block, folded lines joined (RFC 5322 section 2.2.3), and where the block really ends.

    A line among the fields that is none is passed over; lines after the last field are body whose blank line is
    missing, so the second value, an offset into ``block`` or its length, tells where they begin. With ``resume_at``
    only a field whose lower-case name begins so can follow a line that is none: text may well hold a colon.

    A bare CR is white space: it ends neither a line nor a header, whatever a client let slip into a value.
    """
    try:
        text = block.decode("utf-8")
        raw = False
    except UnicodeDecodeError:
        text = block.decode("latin-1")
        raw = True
    if "\r" in text:
        text = text.replace("\r\n", "\n").removesuffix("\r")
    fields: list[tuple[str, str]] = _FIELD.findall(text)
    end = len(block)
    folds = text.count("\n ") + text.count("\n\t")
    if text.count("\n") + 1 != len(fields) + folds:
        fields, end = _pass_over_junk(block, "latin-1" if raw else "utf-8", resume_at)
    if raw:
        # Raw 8-bit headers: UTF-8, or the charset that the message names, or Windows-1252.
        named = _CHARSET.search(text)
        charset = named[1] if named else ""
        fields = [(name, _decode_raw(value.encode("latin-1"), charset)) for name, value in fields]
    if folds or "\0" in text:
        fields = [(name, value.replace("\n", "").replace("\0", "")) for name, value in fields]
    return [(name.lower(), name, value) for name, value in fields], end


def _decode_raw(value: bytes, charset: str) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return decode_text(value, charset)


def _pass_over_junk(block: bytes, codec: str, resume_at: str) -> tuple[list[tuple[str, str]], int]:
    """``parse_headers``, line by line, for a block with lines that are no fields."""
    fields: list[tuple[str, list[str]]] = []
    in_junk = False
    end = position = 0
    for line in block.split(b"\n"):
        text = line.rstrip(b"\r").decode(codec)
        position += len(line) + 1
        if text[:1] in (" ", "\t"):
            if not in_junk:
                end = position
                if fields:
                    fields[-1][1].append(text)
        elif not text and not fields:
            end = position
        elif (match := _FIELD.match(text)) and not (in_junk and not match[1].lower().startswith(resume_at)):
            fields.append((match[1], [match[2]]))
            end, in_junk = position, False
        else:
            in_junk = True
    if not block[end:].strip():
        end = len(block)
    return [(name, "".join(lines)) for name, lines in fields], min(end, len(block))


def one_line(text: str) -> str:
    """``text`` on one line: line breaks and other control characters become single spaces."""
    return text.strip() if text.isprintable() else _CONTROL.sub(" ", text).strip()


def decode_words(value: str) -> str:
    """``value`` with its encoded words decoded; white space between two of them vanishes (RFC 2047 section 6.2)."""
    if "=?" not in value:
        return value
    # What stands before a word, its charset, encoding and text, and so on; at last what stands behind the last one.
    pieces = _ENCODED_WORD.split(value)
    if len(pieces) == 1:
        return value
    if len(pieces) == 5:
        before, charset, encoding, text, after = pieces
        return before + decode_text(_word_bytes(encoding, text), charset.lower()) + after
    out: list[str] = []
    pending: list[bytes] = []
    pending_charset = ""
    for at in range(0, len(pieces) - 1, 4):
        between, charset, encoding, text = pieces[at : at + 4]
        charset = charset.lower()
        joins = bool(pending) and not between.strip()
        # Adjacent words of one charset are decoded together: some programs split a character between them.
        if pending and not (joins and charset == pending_charset):
            out.append(decode_text(b"".join(pending), pending_charset))
            pending.clear()
        if not joins:
            out.append(between)
        pending_charset = charset
        pending.append(_word_bytes(encoding, text))
    out.append(decode_text(b"".join(pending), pending_charset))
    out.append(pieces[-1])
    return "".join(out)


def _word_bytes(encoding: str, text: str) -> bytes:
    raw = text.encode("utf-8", "replace")
    if encoding in "qQ":
        return binascii.a2b_qp(raw, header=True)
    return decode_base64(raw)


def parse_parameters(value: str) -> tuple[str, Mapping[str, str]]:
    """The main value in lower case and the parameters (RFC 2045, RFC 2231, and encoded words as seen in the wild)."""
    if not value:
        return "", {}
    if len(value) <= USUAL_VALUE and "name" not in value and "boundary" not in value:
        # The same few values stand in nearly every message; boundaries and names do not come again.
        return _parse_usual(value)
    return _parse_parameters(value)


def _parse_parameters(value: str) -> tuple[str, Mapping[str, str]]:
    if simple := _SIMPLE.fullmatch(value):
        main, key, quoted, token, charset, encoded = simple.groups()
        if not key:
            return main.lower(), {}
        text = decode_text(_unquote(encoded), charset or "utf-8") if encoded else quoted or token or ""
        return main.lower(), {key.lower(): decode_words(text)}
    main, _, rest = value.partition(";")
    words = main.split(None, 1)
    if not rest and len(words) < 2:
        return main.strip().strip("\"'").lower(), {}
    if len(words) > 1 and "=" in words[1]:
        # No semicolon after the type.
        rest = f"{words[1]};{rest}"
    parameters: dict[str, str] = {}
    pieces: dict[str, list[tuple[int, str, bool]]] = {}
    for key, quoted, unquoted in _PARAMETER.findall(f";{rest}"):
        key = key.lower()
        if quoted:
            text = quoted.replace('\\"', '"').replace("\\\\", "\\") if "\\" in quoted else quoted
        else:
            text = unquoted.strip()
            if text[:1] == '"':
                text = text.removeprefix('"').removesuffix('"')
            elif " " in text and key not in _NAMES:
                # A comment; names of files with spaces are often left without quotes.
                text = text.split()[0]
        if "*" in key:
            name, _, number = key.partition("*")
            digits = number.rstrip("*")
            encoded = number.endswith("*") or not digits
            if len(digits) <= MAX_NUMBER_DIGITS:
                index = int(digits) if digits.isascii() and digits.isdigit() else 0
                pieces.setdefault(name, []).append((index, text, encoded))
        elif key not in parameters:
            parameters[key] = decode_words(text) if "=?" in text else text
    for name, numbered in pieces.items():
        parameters[name] = _join_continuations(numbered)
    return (words[0].strip("\"'").lower() if words else ""), parameters


_parse_usual = functools.lru_cache(maxsize=256)(_parse_parameters)


def _join_continuations(numbered: list[tuple[int, str, bool]]) -> str:
    numbered.sort(key=lambda piece: piece[0])
    charset = ""
    first, encoded = numbered[0][1:]
    if encoded and first.count("'") >= 2:
        charset, _, first = first.split("'", 2)
    texts = [(first, encoded), *(piece[1:] for piece in numbered[1:])]
    data = b"".join(_unquote(text) if is_encoded else text.encode("utf-8", "replace") for text, is_encoded in texts)
    return decode_words(decode_text(data, charset or "utf-8"))


def _unquote(text: str) -> bytes:
    """The bytes of a percent-encoded text."""
    if "%" in text and _PERCENT_ENCODED.fullmatch(text):
        # Quoted-printable with another sign: so it is decoded in C.
        return binascii.a2b_qp(text.replace("=", "=3D").replace("%", "=").encode())
    return unquote_to_bytes(text)
