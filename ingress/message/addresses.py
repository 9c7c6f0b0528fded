"""Address lists of header fields (RFC 5322 section 3.4), read in one pass in which the angle address wins.

``"alice@x" <bob@y>`` is bob: a reader that takes alice for the sender is a spoofing hole.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from ingress.message.headers import decode_words, one_line
from ingress.message.patterns import compile_pattern

_SIMPLE: Final = compile_pattern(
    r"""[\s,;]*+(?:(?:"([^"\\]*+)"|([^\s"<>(),;:@=\\\[\]][^"<>(),;:@\\\[\]=]*+)|"""
    r"""((?:=\?[^?\s]++\?[bBqQ]\?[^?\s]*+\?=\s*+)++)|)\s*+<([^\s"<>(),;:\\]++)>"""
    r"""|([^\s"<>(),;:@=\\\[\]]++@[^\s"<>(),;:@=\\\[\]]++))\s*+(?:[,;]|\Z)"""
)
"""An entry as most programs write it: a name, quoted or not, and an angle address, or an address alone."""
_SEPARATORS: Final = re.compile(r"[\s,;]*+")

_WORD: Final = (
    r"""(?P<word>=\?[^?\s]++\?[bBqQ]\?[^?\s]*+\?=|[^"<>(),;:\[=]++|=|\[[^\[\]]*+\]?)|(?P<angle><++[^<>]*+>?)"""
)
_TOKEN: Final = compile_pattern(_WORD + r"""|(?P<quoted>"(?:[^"\\]|\\.)*+")|(?P<mark>.)""", re.DOTALL)
_TOKEN_WITHOUT_QUOTES: Final = re.compile(_WORD + r"|(?P<quoted>(?!))|(?P<mark>.)", re.DOTALL)
"""For what follows a quote that has no partner: looking for one at every further quote would take quadratic time."""

_UNSEEN: Final = re.compile("[\x80-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]+")
"""C1 controls, signs that turn the direction of what follows around, and lone surrogates. Other invisible signs are
part of names: emoji are joined and flags written with them, Hebrew and Arabic set marks beside neutral characters."""

_AROUND_AT: Final = re.compile(r"(?<!\s)\s*+@\s*+")
_ATOM: Final = compile_pattern(r"""(?:"(?:[^"\\]|\\.)*+"|[^\s"])++""", re.DOTALL)
_COMMENT_MARK: Final = re.compile(r"\\.|[()]", re.DOTALL)


class Mailbox(NamedTuple):
    """One address with its display name, "" where there is none."""

    name: str
    address: str


def parse_addresses(value: str) -> list[Mailbox]:
    """All mailboxes of a header value, groups opened, comments taken out; linear in its length."""
    found = [Mailbox(display_name(name), address) for name, address in split_addresses(value)]
    if not found and "=?" in value and (decoded := decode_words(value)) != value:
        # Some programs encode the address along with the name.
        found = [Mailbox(display_name(name), address) for name, address in split_addresses(decoded)]
    return found


def display_name(raw: str) -> str:
    """A name for a person to read: encoded words decoded, on one line, without signs that are for spoofing."""
    name = one_line(decode_words(raw))
    # None of those signs is printable.
    return name if name.isprintable() else _UNSEEN.sub("", name).strip()


def split_addresses(value: str) -> Iterator[tuple[str, str]]:
    """Name, still encoded, and address of each mailbox."""
    position, end = 0, len(value)
    tokens = _TOKEN
    comments = True
    while position < end:
        if simple := _SIMPLE.match(value, position):
            position = simple.end()
            quoted, plain, encoded, angle, alone = simple.groups()
            if alone:
                yield "", alone
            else:
                yield (quoted or plain or encoded or "").strip(), _bare(angle) if angle[0] == "@" else angle
            continue
        entry = _Entry()
        position = _SEPARATORS.match(value, position).end()  # type: ignore[union-attr]
        while token := tokens.match(value, position):
            kind, text = token.lastgroup, token[0]
            position = token.end()
            if kind == "word":
                entry.words(text)
            elif kind == "quoted":
                entry.quoted(text, is_local_part=value[position : position + 1] == "@")
            elif kind == "angle":
                yield from entry.angle(text)
            elif text == "(" and comments:
                closing = _end_of_comment(value, position)
                comments = closing is not None
                if closing is not None:
                    entry.comment(value[position : closing - 1])
                    position = closing
            elif text in ",;":
                break
            elif text == ":":
                # What stood before is a group's name.
                entry.clear()
            elif text == '"':
                tokens = _TOKEN_WITHOUT_QUOTES
        yield from entry.finish()


class _Entry:
    """What has been read of one entry of the list."""

    __slots__ = ("address", "comments", "name", "plain", "shown", "text")

    def __init__(self) -> None:
        self.text: list[str] = []
        """Words and quoted strings since the last angle address."""
        self.plain: list[str] = []
        """The same without quoted strings that are no local part: where an address may stand."""
        self.shown: list[str] = []
        """The same as ``text`` with the comments in it."""
        self.comments: list[str] = []
        """Those that are in no name yet."""
        self.name = ""
        self.address = ""
        """The last angle address and the name before it, until it is known what follows."""

    def words(self, text: str) -> None:
        self.text.append(text)
        self.plain.append(text)
        self.shown.append(text)

    def comment(self, text: str) -> None:
        self.comments.append(text)
        self.shown.append(f"({text})")

    def quoted(self, text: str, *, is_local_part: bool) -> None:
        if is_local_part:
            self.words(text)
        else:
            self.text.append(_unquoted(text))
            self.shown.append(self.text[-1])
            self.plain.append(" ")

    def clear(self) -> None:
        self.text.clear()
        self.plain.clear()
        self.shown.clear()

    def angle(self, text: str) -> Iterator[tuple[str, str]]:
        """Read an angle address; the mailbox of the one before it, where a comma between them was left out."""
        inside = text.strip("<>")
        if not text.endswith(">"):
            # No closing bracket: an address holds no comma.
            inside = re.split("[,;]", inside, maxsplit=1)[0]
        address = _bare(inside)
        if not address:
            return
        if self.address:
            yield self.name or "".join(self.comments).strip(), self.address
            self.comments.clear()
        self.name, self.address = self.shown_name(), address
        if self.name:
            self.comments.clear()
        self.clear()

    def shown_name(self) -> str:
        """What stands beside an angle address, with the comments in it; "" where comments are all there is."""
        return "".join(self.shown).strip() if "".join(self.text).strip() else ""

    def finish(self) -> Iterator[tuple[str, str]]:
        """The mailboxes of an entry that ends here. Beside an angle address, an address in the text is only text."""
        text = "".join(self.text)
        if self.address:
            if self.name:
                name = " ".join([self.name, *(f"({comment})" for comment in self.comments)])
            else:
                name = self.shown_name() or "".join(self.comments).strip()
            yield name, self.address
            return
        if "@" not in text:
            return
        plain = "".join(self.plain)
        atoms = _ATOM.findall(_AROUND_AT.sub("@", plain if "@" in plain else text))
        addresses = [atom for atom in atoms if "@" in atom[1:-1]]
        name = "".join(self.comments).strip()
        if len(addresses) == 1 and not name:
            name = " ".join(atom for atom in atoms if atom is not addresses[0])
        for address in addresses:
            yield name, _bare(address)


def _end_of_comment(value: str, position: int) -> int | None:
    """Where a comment ends that was opened before ``position``, nested ones included; None when it never does."""
    depth = 1
    for mark in _COMMENT_MARK.finditer(value, position):
        if mark[0] == "(":
            depth += 1
        elif mark[0] == ")":
            depth -= 1
            if not depth:
                return mark.end()
    return None


def _unquoted(text: str) -> str:
    text = text[1:-1]
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL) if "\\" in text else text


def _bare(address: str) -> str:
    """An address without white space, comments, an obsolete source route, or the scheme of a link."""
    if "(" in address:
        address = re.sub(r"\([^()]*\)", "", address)
    address = address.strip() if '"' in address else "".join(address.split())
    if address[:1] == "@" or address[:7].lower() == "mailto:":
        address = address.rpartition(":")[2] if address[:1] == "@" else address[7:]
    return address
