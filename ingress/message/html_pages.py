"""Several texts become one HTML body. Where one of them is a whole page, the others go into its body.

What stands behind ``</html>`` is shown by a browser, on the line that the page ended with, and dropped by programs that
read a page's ``body`` alone, such as the one by which the API makes the mail's plain text. Everything is linear in the
length of the HTML.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from ingress.message.chunks import CHUNK
from ingress.message.patterns import compile_pattern

_MARK: Final = re.compile(
    r"<(?:!--|(!doctype|/?(?:html|head|body)|script|style|title|textarea|xmp|iframe|noembed|noframes)(?=[\s/>]))",
    re.IGNORECASE,
)
"""A comment, a tag that makes a page, or an element in which tags are only text (HTML standard, section 13.2.6.4)."""

_LONGEST_MARK: Final = len("<!doctype>") + 1
_COMMENT_END: Final = re.compile("--!?>")
_TAG_END: Final = compile_pattern(r"""(?:[^>=]++|=\s*+(?:"[^"]*+"|'[^']*+')?+)*+>""")
"""From a tag's name to its end; an attribute's value in quotes may hold ``>``."""

_WHITE_SPACE: Final = " \t\r\n\f"
_PAGE_TAGS: Final = ("!doctype", "html", "/html", "head", "/head", "body", "/body")
_TAKEN_OUT: Final = (*_PAGE_TAGS, "title")
"""Of a page that becomes a block: the tags that make it a page, and what is shown outside of its body."""

MAX_MARKS: Final = 10_000
"""Tags of one text that are looked at: a page has six, one that quotes others some dozens."""


class Text(NamedTuple):
    """One text of the message as HTML."""

    html: str
    is_written: bool
    """Whether the sender wrote it as HTML; else it is made of plain text, and stands in ``<div>``."""


class _Mark(NamedTuple):
    name: str
    """One of ``_TAKEN_OUT``."""
    start: int
    end: int


class _Page(NamedTuple):
    """One text, ended where it leaves a comment or an element open that would swallow what follows."""

    html: str
    marks: list[_Mark]
    is_written: bool

    @property
    def is_whole(self) -> bool:
        return any(mark.name in ("html", "body") for mark in self.marks)


def join_texts(texts: Sequence[Text]) -> str:
    """One body of all ``texts`` in order, each on lines of its own; one text alone stays as it is."""
    if len(texts) < 2 or not any(text.is_written for text in texts):
        return "\n".join(text.html for text in texts)
    pages = [_read(text) for text in texts]
    # Without a whole page the texts stand one behind the other, behind the first.
    base = next((at for at, page in enumerate(pages) if page.is_whole), 0)
    html = pages[base].html
    begin, end = _room(pages[base])
    before = "".join(f"{_block(page)}\n" for page in pages[:base])
    after = "".join(f"\n{_block(page)}" for page in pages[base + 1 :])
    rest = html[end:]
    return f"{html[:begin]}{before}{html[begin:end]}{after}" + (f"\n{rest}" if after and rest else rest)


def _block(page: _Page) -> str:
    """A text as a block of its own: of a page what its body shows, with the attributes of its tags.

    Only the tags go that make it a page, so that nothing is lost that stands beside its body; style sheets stay.
    """
    if not page.is_written:
        return page.html
    attributes = {"body": "", "html": ""}
    pieces: list[str] = []
    position = 0
    for mark in page.marks:
        pieces.append(page.html[position : mark.start])
        position = mark.end
        if attributes.get(mark.name) == "":
            attributes[mark.name] = page.html[mark.start + len("<body") : mark.end - 1].rstrip("/" + _WHITE_SPACE)
    pieces.append(page.html[position:])
    # The body's come first: of two with one name the first counts.
    return f"<div{''.join(attributes.values())}>{''.join(pieces).strip(_WHITE_SPACE)}</div>"


def _room(page: _Page) -> tuple[int, int]:
    """Where in a page texts before it go, and where texts after it: inside its body."""
    begin = 0
    for name in ("html", "/head", "body"):
        begin = next((mark.end for mark in page.marks if mark.name == name), begin)
    for name in ("/body", "/html"):
        ends = [mark.start for mark in page.marks if mark.name == name and mark.start >= begin]
        if ends:
            return begin, ends[-1]
    return begin, len(page.html)


def _read(text: Text) -> _Page:
    """The tags that make a page, in order; those in comments, scripts and the like are none."""
    html, marks = text.html, list[_Mark]()
    position, length = 0, len(html) if text.is_written else 0
    while position < length and len(marks) < MAX_MARKS:
        mark = _MARK.search(html, position, position + CHUNK)
        if mark is None:
            # One search is no longer than a chunk; a tag may lie across two.
            position += CHUNK - _LONGEST_MARK
            continue
        name = (mark[1] or "").lower()
        if not name:
            # "<!-->" is a whole comment.
            closing, ending = _COMMENT_END.search(html, mark.end() - 2), "-->"
        elif name in _PAGE_TAGS:
            closing, ending = _TAG_END.match(html, mark.end()), "'\">"
        else:
            closing, ending = _element_end(name).search(html, mark.end()), f"</{name}>"
        if closing is None:
            html += ending
            break
        if name in _TAKEN_OUT:
            marks.append(_Mark(name, mark.start(), closing.end()))
        position = closing.end()
    return _Page(html, marks, text.is_written)


def _element_end(name: str) -> re.Pattern[str]:
    return re.compile(rf"</{name}(?=[\s/>])[^>]*+>", re.IGNORECASE)


__all__ = ["Text", "join_texts"]
