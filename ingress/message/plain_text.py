"""Plain text → HTML that keeps lines, indentation and links in every mail program."""

from __future__ import annotations

import html
import re
from typing import Final

_LINK: Final = re.compile(r"\bhttps?://[^\s<>\"]+|\bmailto:[^\s<>\"]+", re.IGNORECASE)
_TRAILING: Final = ".,;:!?'"
"""Punctuation that ends a sentence rather than a link."""

_SPACES: Final = re.compile(r"^ +| {2,}", re.MULTILINE)


def to_html(text: str) -> str:
    """HTML of ``text``. Lines become ``<br>`` and spaces ``&nbsp;``, since not every mail program knows pre-wrap."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").expandtabs(8).rstrip("\n")
    pieces: list[str] = []
    position = 0
    for match in _LINK.finditer(text):
        url = match[0].rstrip(_TRAILING)
        if url.endswith(")") and "(" not in url:
            url = url.rstrip(")")
        pieces.append(_escape(text[position : match.start()]))
        pieces.append(f'<a href="{html.escape(url)}">{html.escape(url, quote=False)}</a>')
        position = match.start() + len(url)
    pieces.append(_escape(text[position:]))
    body = "".join(pieces).replace("\n", "<br>\n")
    return f"<div>{body}</div>"


def _escape(text: str) -> str:
    # Quotes stay as they are: {{ … "x" … }} is the API's template language and passes through untouched.
    return _SPACES.sub(
        lambda run: "&nbsp;" * (len(run[0]) - 1) + " " if run.start() else "&nbsp;" * len(run[0]),
        html.escape(text, quote=False),
    )


def unflow(text: str, *, delete_space: bool) -> str:
    """Text of ``format=flowed`` with its soft line breaks joined (RFC 3676)."""
    lines: list[str] = []
    open_depth: int | None = None
    for line in text.replace("\r\n", "\n").split("\n"):
        depth = len(line) - len(line.lstrip(">"))
        content = line[depth:]
        content = content.removeprefix(" ")
        flowed = content.endswith(" ") and content != "-- "
        if flowed and delete_space:
            content = content[:-1]
        if open_depth == depth and content != "-- ":
            lines[-1] += content
        else:
            lines.append(">" * depth + (" " if depth and content else "") + content)
        open_depth = depth if flowed else None
    return "\n".join(lines)
