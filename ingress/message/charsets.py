"""Charsets of mail: the names it uses, and text from bytes that never fails and never holds a lone surrogate."""

from __future__ import annotations

import codecs
import re
from functools import lru_cache
from typing import Final

from ingress.message.chunks import CHUNK, line_chunks

ALIASES: Final = {
    "ansi_x3.110-1983": "latin-1",
    "gb_2312": "gb18030",
    "iso-10646-ucs-2": "utf-16-be",
    "iso-8859-6-e": "iso-8859-6",
    "iso-8859-6-i": "iso-8859-6",
    "iso-8859-8-e": "iso-8859-8",
    "iso-8859-8-i": "iso-8859-8",
    "koi8": "koi8-r",
    "unicode-1-1-utf-7": "utf-7",
    "unicode-1-1-utf-8": "utf-8",
    "unicode-2-0-utf-7": "utf-7",
    "utf8mb4": "utf-8",
    "windows-31j": "cp932",
    "x-sjis": "cp932",
}
"""Names that occur in mail and that Python does not know."""

WIDER: Final = {
    "ascii": "utf-8",
    "big5": "cp950",
    "euc_kr": "cp949",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "iso8859-11": "cp874",
    "shift_jis": "cp932",
    "tis-620": "cp874",
}
"""Codecs that know less than what is meant by their names in mail (as in the WHATWG's encoding standard)."""

LENIENT: Final = {"cp950": ("big5hkscs",), "iso2022_jp": ("iso2022_jp_ext", "iso2022_jp_2004"), "euc_jp": ("cp932",)}
"""Further codecs to try where one fails."""

REFUSED: Final = frozenset({"idna", "punycode", "undefined", "unicode_escape", "raw_unicode_escape", "mbcs", "oem"})
"""Codecs of Python that are no charsets: some take quadratic time, some read escapes."""

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._:+()-]{0,39}")
_NUMBERED: Final = re.compile(r"(?:(?:x-)?(?:cp|ms|windows|dos|ibm)-?)(\d{3,5})")
_ESCAPED: Final = re.compile("[\udc80-\udcff]")
_UNDECODED: Final = {
    chr(0xDC00 + byte): bytes([byte]).decode("cp1252", "replace").replace("\x81", "�") for byte in range(0x80, 0x100)
}
"""What a byte that is no UTF-8 stands for: mostly it is Windows-1252 pasted into UTF-8."""


@lru_cache(maxsize=512)
def find_codec(charset: str) -> str | None:
    """The codec for a charset's name as mail writes it; None where there is none, or none that can be meant."""
    name = "".join(charset.split()).strip("\"'").lower()
    if not _NAME.fullmatch(name):
        return None
    numbered = _NUMBERED.fullmatch(name)
    for candidate in (ALIASES.get(name, name), name.removeprefix("x-"), f"cp{numbered[1]}" if numbered else name):
        try:
            found = codecs.lookup(candidate)
        except (LookupError, ValueError):
            continue
        if found._is_text_encoding and found.name.replace("-", "_") not in REFUSED:
            return WIDER.get(found.name, found.name)
    return None


def decode_text(data: bytes, charset: str) -> str:
    """``data`` as text. Never raises, never yields a lone surrogate.

    In its charset where it fits, else as UTF-8 whose wrong bytes are read as Windows-1252, which is also the guess for
    text without a charset; a multi-byte charset other than UTF-8 keeps what fits and shows U+FFFD for what does not.
    """
    if charset == "utf-8" and len(data) <= CHUNK:
        # Nearly all that mail holds.
        try:
            return data.decode()
        except UnicodeDecodeError:
            pass
    codec = find_codec(charset) if charset else None
    if codec and codec != "utf-8":
        for candidate in (codec, *LENIENT.get(codec, ())):
            try:
                return _decode(data, candidate)
            except ValueError:
                continue
    try:
        return _decode(data, "utf-8")
    except UnicodeDecodeError:
        if codec and codec != "utf-8":
            return _decode(data, codec, "replace")
        return "".join(map(_decode_mixture, line_chunks(data)))


def _decode(data: bytes, codec: str, errors: str = "strict") -> str:
    """Raises ``UnicodeDecodeError``, or another ``ValueError``."""
    if len(data) <= CHUNK:
        text = data.decode(codec, errors)
    else:
        decoder = codecs.getincrementaldecoder(codec)(errors)
        pieces = [decoder.decode(data[at : at + CHUNK]) for at in range(0, len(data), CHUNK)]
        text = "".join([*pieces, decoder.decode(b"", True)])
    if codec == "utf-7":
        # The only one that brings lone surrogates, which JSON cannot carry.
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _decode_mixture(data: bytes) -> str:
    """UTF-8 with bytes in it that are none."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return _ESCAPED.sub(lambda found: _UNDECODED[found[0]], data.decode("utf-8", "surrogateescape"))
