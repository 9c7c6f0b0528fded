"""Header fields: cut from the bytes, unfolded, their encoded words (RFC 2047) and parameters (RFC 2231) decoded."""

from __future__ import annotations

import base64
import binascii
import quopri
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes

_ENCODED_WORD: Final = re.compile(r"=\?([^?\s*]+)(?:\*[^?]*)?\?([bBqQ])\?([^?]*)\?=")
_BETWEEN_WORDS: Final = re.compile(r"(=\?[^?\s]+\?[bBqQ]\?[^?]*\?=)[ \t\r\n]+(?==\?[^?\s]+\?[bBqQ]\?[^?]*\?=)")
_FIELD_NAME: Final = re.compile(rb"[\x21-\x39\x3b-\x7e]+")
_PARAMETER: Final = re.compile(r""";\s*([^\s=;]+)\s*=\s*("(?:\\.|[^"\\])*"|[^;]*)""")

CHARSET_ALIASES: Final = {
    "utf8mb4": "utf-8",
    "unicode-1-1-utf-7": "utf-7",
    "x-sjis": "shift_jis",
    "cp-850": "cp850",
    "ks_c_5601-1987": "cp949",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "iso-8859-8-i": "iso-8859-8",
    "ansi_x3.110-1983": "latin-1",
    "x-unknown": "utf-8",
    "unknown-8bit": "utf-8",
    "us-ascii": "utf-8",
    "ascii": "utf-8",
    "iso-8859-1": "cp1252",
    "latin1": "cp1252",
}
"""Charset names of mail that Python does not know or knows as less than what is meant by them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Headers:
    """The fields of one part in order: pairs of name as written and raw, unfolded value as text."""

    fields: tuple[tuple[str, str], ...]

    def get(self, name: str) -> str:
        """Raw value of the first field of that name (lower case), "" where there is none."""
        return next((value for key, value in self.fields if key.lower() == name), "")

    def get_all(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key.lower() == name]


def decode_text(data: bytes, charset: str) -> str:
    """``data`` as text: in its charset, else UTF-8, else Windows-1252. Never raises, never yields a lone surrogate."""
    name = charset.strip().strip("\"'").lower()
    for candidate in (CHARSET_ALIASES.get(name, name), "utf-8", "cp1252"):
        try:
            text = data.decode(candidate or "utf-8")
        except (UnicodeDecodeError, LookupError, ValueError):
            continue
        # UTF-7 and others can bring lone surrogates, which JSON cannot carry.
        return text.encode("utf-8", "replace").decode("utf-8")
    return data.decode("latin-1")


def parse_headers(block: bytes) -> Headers:
    """The fields of a header block, folded lines joined (RFC 5322 section 2.2.3). A junk line is passed over."""
    fields: list[tuple[str, str]] = []
    parts: list[bytes] = []
    name = ""

    def finish() -> None:
        if name:
            fields.append((name, decode_text(b"".join(parts), "utf-8").replace("\0", "").strip(" \t\r\n")))

    for line in block.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n"):
        if line[:1] in (b" ", b"\t"):
            if name and line.strip():
                parts.append(line)
            continue
        key, colon, value = line.partition(b":")
        key = key.rstrip(b" \t")
        if colon and _FIELD_NAME.fullmatch(key):
            finish()
            name, parts = key.decode("ascii"), [value]
    finish()
    return Headers(fields=tuple(fields))


def decode_words(value: str) -> str:
    """``value`` with its encoded words decoded; white space between two of them vanishes (RFC 2047 section 6.2)."""
    if "=?" not in value:
        return value
    words: list[tuple[str, bytes]] = []
    out: list[str] = []

    def flush() -> None:
        # Adjacent words of one charset are decoded together: some programs split a character between them.
        if words:
            out.append(decode_text(b"".join(data for _, data in words), words[0][0]))
            words.clear()

    position = 0
    joined = _BETWEEN_WORDS.sub(r"\1", value)
    for match in _ENCODED_WORD.finditer(joined):
        charset, encoding, text = match.groups()
        if match.start() > position:
            flush()
            out.append(joined[position : match.start()])
        if words and words[0][0].lower() != charset.lower():
            flush()
        words.append((charset, _word_bytes(encoding, text)))
        position = match.end()
    flush()
    out.append(joined[position:])
    return "".join(out)


def _word_bytes(encoding: str, text: str) -> bytes:
    raw = text.encode("utf-8", "replace")
    if encoding in "qQ":
        return quopri.decodestring(raw.replace(b"_", b" "), header=False)
    try:
        return base64.b64decode(raw + b"=" * (-len(raw) % 4))
    except binascii.Error:
        return raw


def parse_parameters(value: str) -> tuple[str, dict[str, str]]:
    """The main value in lower case and the parameters (RFC 2045, RFC 2231, and encoded words as seen in the wild)."""
    main, _, _ = value.partition(";")
    plain: dict[str, str] = {}
    pieces: dict[str, dict[int, tuple[str, bool]]] = {}
    for match in _PARAMETER.finditer(value):
        key, raw = match[1].lower(), match[2].strip()
        if raw.startswith('"') and raw.endswith('"') and len(raw) > 1:
            raw = re.sub(r"\\(.)", r"\1", raw[1:-1])
        if "*" not in key:
            plain.setdefault(key, decode_words(raw))
            continue
        base, _, rest = key.partition("*")
        encoded = rest == "" or rest.endswith("*")
        number = rest.rstrip("*")
        pieces.setdefault(base, {})[int(number) if number.isascii() and number.isdigit() else 0] = (raw, encoded)
    for base, numbered in pieces.items():
        charset, collected = "utf-8", []
        for index, (number, (raw, encoded)) in enumerate(sorted(numbered.items())):
            text = raw
            if index == 0 and encoded and text.count("'") >= 2:
                charset, _, text = text.split("'", 2)
            collected.append(unquote_to_bytes(text) if encoded else text.encode("utf-8", "replace"))
            del number
        plain[base] = decode_text(b"".join(collected), charset)
    return main.strip().lower(), plain
