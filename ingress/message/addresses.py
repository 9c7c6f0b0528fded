"""Address lists of header fields (RFC 5322 section 3.4), read in one pass in which the angle address wins.

``"alice@x" <bob@y>`` is bob: a reader that takes alice for the sender is a spoofing hole.
"""

from __future__ import annotations

from dataclasses import dataclass

from ingress.message.headers import decode_words


@dataclass(frozen=True, slots=True, kw_only=True)
class Mailbox:
    """One address with its display name, "" where there is none."""

    name: str
    address: str


def parse_addresses(value: str) -> list[Mailbox]:
    """All mailboxes of a header value, groups opened, comments taken out; linear in its length."""
    found: list[Mailbox] = []
    text: list[str] = []
    comment: list[str] = []
    angle: list[str] | None = None
    address: str | None = None
    depth = 0
    position, end = 0, len(value)

    def finish() -> None:
        nonlocal address
        words = "".join(text).strip()
        if address is None and "@" in words:
            found.append(Mailbox(name=_name("".join(comment)), address="".join(words.split())))
        elif address:
            found.append(Mailbox(name=_name(words or "".join(comment)), address=address))
        text.clear()
        comment.clear()
        address = None

    while position < end:
        char = value[position]
        if depth:
            if char == "\\" and position + 1 < end:
                position += 1
                comment.append(value[position])
            elif char == "(":
                depth += 1
            elif char == ")":
                depth -= 1
            else:
                comment.append(char)
        elif char == '"' and angle is None:
            closing = _closing_quote(value, position + 1)
            text.append(value[position + 1 : closing].replace('\\"', '"').replace("\\\\", "\\"))
            if value[closing + 1 : closing + 2] == "@":
                text[-1] = value[position : closing + 1]
            position = closing
        elif char == "<":
            angle = []
        elif char == ">" and angle is not None:
            # A source route before the address is left out; the last angle address of an entry wins.
            address = "".join(angle).rpartition(":")[2].strip()
            angle = None
        elif angle is not None:
            angle.append(char)
        elif char == "(":
            depth += 1
        elif char in ",;":
            finish()
        elif char == ":":
            text.clear()
        else:
            text.append(char)
        position += 1
    if angle:
        address = "".join(angle).strip()
    finish()
    return found


def _closing_quote(value: str, start: int) -> int:
    position = start
    while position < len(value) and value[position] != '"':
        position += 2 if value[position] == "\\" else 1
    return min(position, len(value))


def _name(raw: str) -> str:
    decoded = decode_words(raw.strip())
    return " ".join("".join(c if c.isprintable() else " " for c in decoded).split())
