"""Several texts become one HTML body. Where one of them is a whole page, the others go into its body.

What stands behind ``</html>`` is shown by a browser, on the line that the page ended with, and dropped by programs that
read a page's ``body`` alone, such as the one by which the API makes the mail's plain text. Everything is linear in the
length of the HTML.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final, NamedTuple

from ingress.message.chunks import CHUNK

_MARK: Final = re.compile(
    r"<(?:!--|(!doctype|/?(?:html|head|body)|script|style|title|textarea|xmp|iframe|noembed|noframes)(?=[\s/>]))",
    re.IGNORECASE,
)
"""A comment, a tag that makes a page, or an element in which tags are only text (HTML standard, section 13.2.6.4)."""

_LONGEST_MARK: Final = len("<!doctype>") + 1
_COMMENT_END: Final = re.compile("--!?>")
_TAG_END: Final = re.compile(r"""(?:[^>=]++|=\s*+(?:"[^"]*+"|'[^']*+')?+)*+>""")
"""From a tag's name to its end; an attribute's value in quotes may hold ``>``."""

_WHITE_SPACE: Final = " \t\r\n\f"
_PAGE_TAGS: Final = ("!doctype", "html", "/html", "head", "/head", "body", "/body")

MAX_MARKS: Final = 10_000
"""Tags of one text that are looked at: a page has six, one that quotes others some dozens."""


class Text(NamedTuple):
    """One text of the message as HTML."""

    html: str
    is_written: bool
    """Whether the sender wrote it as HTML; else it is made of plain text, and stands in ``<div>``."""


class _Mark(NamedTuple):
    name: str
    """Lower case: ``html``, ``/html``, …, ``!doctype``, or ``title``, which is no text of the body."""
    start: int
    end: int


def join_texts(texts: Sequence[Text]) -> str:
    """One body of all ``texts`` in order, each on lines of its own; one text alone stays as it is."""
    if len(texts) < 2:
        return texts[0].html if texts else ""
    marks = [list(islice(_marks(text.html), MAX_MARKS)) if text.is_written else [] for text in texts]
    # Without a page the texts stand one behind the other, behind the first.
    base = next((at for at, found in enumerate(marks) if _is_page(found)), 0)
    blocks = ["" if at == base else _block(text, marks[at]) for at, text in enumerate(texts)]
    html = texts[base].html
    begin, end = _room(marks[base], len(html))
    before = "".join(f"{block}\n" for block in blocks[:base])
    after = "".join(f"\n{block}" for block in blocks[base + 1 :])
    rest = html[end:]
    return f"{html[:begin]}{before}{html[begin:end]}{after}" + (f"\n{rest}" if after and rest else rest)


def _is_page(marks: Sequence[_Mark]) -> bool:
    return any(mark.name in ("html", "body") for mark in marks)


def _block(text: Text, marks: Sequence[_Mark]) -> str:
    """A text as a block of its own: of a page what its body shows, with the attributes of its ``<body>``.

    Only the tags go that make it a page, so that nothing is lost that stands beside its body; style sheets stay.
    """
    if not text.is_written:
        return text.html
    attributes = ""
    pieces: list[str] = []
    position = 0
    for mark in marks:
        pieces.append(text.html[position : mark.start])
        position = mark.end
        if mark.name == "body" and not attributes:
            attributes = text.html[mark.start + len("<body") : mark.end - 1].rstrip("/" + _WHITE_SPACE)
    pieces.append(text.html[position:])
    return f"<div{attributes}>{''.join(pieces).strip(_WHITE_SPACE)}</div>"


def _room(marks: Sequence[_Mark], length: int) -> tuple[int, int]:
    """Where in a page texts before it go, and where texts after it: inside its body."""
    begin = 0
    for name in ("html", "/head", "body"):
        begin = next((mark.end for mark in marks if mark.name == name), begin)
    for name in ("/body", "/html"):
        ends = [mark.start for mark in marks if mark.name == name and mark.start >= begin]
        if ends:
            return begin, ends[-1]
    return begin, length


def _marks(html: str) -> Iterator[_Mark]:
    """The tags that make a page, in order; those in comments, scripts and the like are none."""
    position, length = 0, len(html)
    while position < length:
        mark = _MARK.search(html, position, position + CHUNK)
        if mark is None:
            # One search is no longer than a chunk; a tag may lie across two.
            position += CHUNK - _LONGEST_MARK
            continue
        name = (mark[1] or "").lower()
        if not name:
            # "<!-->" is a whole comment.
            closing = _COMMENT_END.search(html, mark.end() - 2)
        elif name in _PAGE_TAGS:
            closing = _TAG_END.match(html, mark.end())
            if closing is not None:
                yield _Mark(name, mark.start(), closing.end())
        else:
            closing = re.compile(rf"</{name}(?=[\s/>])[^>]*+>", re.IGNORECASE).search(html, mark.end())
            if closing is not None and name == "title":
                yield _Mark(name, mark.start(), closing.end())
        if closing is None:
            # It never ends: all that follows belongs to it.
            return
        position = closing.end()


__all__ = ["Text", "join_texts"]
