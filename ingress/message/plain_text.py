"""Plain text → HTML that keeps lines, indentation, columns and links in every mail program.

The API generates the plain-text part of the sent mail from this HTML, so lines are ``<br>`` and blocks ``<div>``;
white-space rules of CSS, which such generators and some mail programs ignore, carry nothing. An attribute stands only
where the text needs it: direction, a fixed-width font for columns, permission to break a long word. Everything is
linear in the length of the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from typing import Final

from ingress.message.patterns import compile_pattern

# Each pattern begins with one character or one class of them: the search for those is what re does fast.
_LINE_BREAK: Final = re.compile("[\r\x85\u2028\u2029](?:(?<=\r)\n)?")
_CONTROL: Final = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff](?:(?<=\x1b)\[[0-9;?]*[ -/]*[@-~])?"
)
"""What no HTML may hold and no reader sees: control characters and a terminal's colours."""

_CLEAN_ASCII: Final = b"\t\n" + bytes(range(0x20, 0x7F))
"""What neither of these two patterns finds anything in: nearly all of nearly every text."""

_URL: Final = r"""(?:\{\{[^{}\n"<>]*\}\}|[^\s<>"\x00-\x1f`“”„«»\u3000-\u303f\uff00-\uff60])"""
"""One character of a link, or one template expression in it. CJK punctuation and quotation marks end a link."""

_LINK: Final = compile_pattern(
    rf"""[hHmMwW{{](?:
    (?<=\{{)(?P<template>\{{[^{{}}]*\}}\}})
    | (?:
        (?<=[hH])[tT][tT][pP][sS]?://(?=[\w\[{{])
        | (?<=[mM])[aA][iI][lL][tT][oO]:(?=\w)
        | (?<=[wW])[wW][wW]\.(?=\w[\w-]*+\.\w)
    ){_URL}++
    )""",
    re.VERBOSE,
)
_ANGLE: Final = compile_pattern(rf"(?:{_URL}|\n(?=[^\s<>]))++(?=>)")
"""All of a link in angle brackets (RFC 3986 appendix C): line breaks in it are no part of it."""

_LINKS_BUT_URLS: Final = ("{", "www.", "mailto:")
"""What stands in a text, lower case, that has links other than ``http://`` and ``https://``."""

_IN_A_WORD: Final = re.compile(r"[A-Za-z0-9@]\Z")
"""What stands before a link is no part of its word; letters of scripts that write no spaces may stand there."""

_TRAILING: Final = ".,;:!?'’‘…*"
"""Punctuation that ends a sentence rather than a link. Not ``=``, ``-``, ``_`` and ``/``: tokens end in them."""

_BRACKETS: Final = {")": "(", "]": "[", "}": "{"}

_SPACES: Final = re.compile(r" (?: +|(?<![^\n] ))")
"""Runs of spaces, and the single one that begins a line."""

_LONG_WORD: Final = 40
"""Characters without a space that may be wider than a narrow window."""
_DEEP_INDENT: Final = " " * 20
_AS_WORDS: Final = bytes(ord(" " if byte in b" \n" else "x") for byte in range(256))
"""ASCII as it is to the eye that looks for long words only: letters are all ``x``, what parts them is a space."""

_PREFIX: Final = re.compile(r"[\s>]*(?:(?:[-*+•·–—]|\(?\w{1,3}[.)])\s+)?")
"""Quoting, indentation and a list's marker, whose spaces make no column."""

_GAP: Final = re.compile(r" (?:(?<=[^\s.!?:] ) +|(?<=[.!?:] ) {2,})(?=\S)")
"""Spaces inside a line that are more than a typist's after a sentence."""

_DRAWING: Final = re.compile("[│-╿▀-▟]")
_BOX_LINE: Final = re.compile(r"(?:\|.*\||\+[-=+]{3,}\+)", re.DOTALL)
_PATCH_MARKS: Final = ("diff --git ", "@@ -", "--- a/")
_PATCH: Final = re.compile(r"^(?:diff --git |@@ -\d+(?:,\d+)? \+\d+|--- a/)", re.MULTILINE)
_RIGHT_TO_LEFT: Final = re.compile(
    "[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff]"
)

MAX_LOOKED_AT: Final = 100_000
"""Characters in which tables and directions are looked for; what follows is shown like the last of them."""

MAX_SPACED_OUT: Final = 1_000_000
"""Characters of a text whose tabs and spaces may grow as they like; a longer one is kept near its size."""

_LETTER: Final = re.compile(r"[^\W\d_]")

_MONOSPACE: Final = "font-family:Consolas,Menlo,monospace"
"""Not ``monospace`` alone: browsers show that one smaller."""

_BREAK_WORDS: Final = "word-wrap:break-word;overflow-wrap:anywhere"


def to_html(text: str) -> str:
    """HTML of ``text``: ``<div>``, ``<br>`` and ``<a>``, nothing of the text becoming markup.

    Spaces that HTML would swallow become ``&nbsp;``. ``{{ … }}``, the API's template language, keeps its spaces and
    quotes; ``&``, ``<`` and ``>`` are escaped there as everywhere.
    """
    if not text.isascii() or text.encode().translate(None, _CLEAN_ASCII):
        text = _CONTROL.sub("", _LINE_BREAK.sub("\n", text))
    text = text.rstrip()
    is_huge = len(text) > MAX_SPACED_OUT
    if "\t" in text:
        text = text.expandtabs(1 if is_huge else 8)
    html = "\n".join(_block(block, direction, columns) for block, direction, columns in _blocks(text))
    return html.replace("&nbsp;", "\xa0") if is_huge else html


def _block(text: str, direction: str, columns: bool) -> str:
    style = ";".join(rule for rule, wanted in ((_MONOSPACE, columns), (_BREAK_WORDS, _has_long_words(text))) if wanted)
    attributes = (f' dir="{direction}"' if direction else "") + (f' style="{style}"' if style else "")
    return f"<div{attributes}>{_inline(text)}</div>"


def _has_long_words(text: str) -> bool:
    if text.isascii():
        # The search for forty equal bytes costs a twentieth of what a list of words does.
        has_long_word = b"x" * _LONG_WORD in text.encode().translate(_AS_WORDS)
    else:
        has_long_word = len(max(text.split(), key=len, default="")) >= _LONG_WORD
    return has_long_word or _DEEP_INDENT in text


def _links(text: str) -> Iterator[re.Match[str]]:
    """What ``_LINK`` finds, one after the other: where all are URLs it is asked about those places alone."""
    folded = text.lower()
    if not text.isascii() or any(begin in folded for begin in _LINKS_BUT_URLS):
        yield from _LINK.finditer(text)
        return
    at = text.find("://")
    while at >= 0:
        scheme = folded.find("http", max(0, at - len("https")), at)
        match = _LINK.match(text, scheme) if scheme >= 0 else None
        if match:
            yield match
        at = text.find("://", match.end() if match else at + 1)


def _inline(text: str) -> str:
    pieces: list[str] = []
    position = 0
    for match in _links(text):
        start, end = match.span()
        if start < position:
            continue
        if match["template"]:
            pieces += (_spaced(text[position:start], position == 0), _escape(match[0]))
            position = end
            continue
        before = text[max(0, start - 5) : start]
        if _IN_A_WORD.search(before):
            continue
        if before.endswith("<") or before.upper() == "<URL:":
            angle = _ANGLE.match(text, start)
            end = angle.end() if angle else _link_end(text, start, end)
        else:
            end = _link_end(text, start, end)
        shown = text[start:end]
        target = shown.replace("\n", "")
        if target[:4].lower() == "www.":
            target = "http://" + target
        pieces.append(_spaced(text[position:start], position == 0))
        pieces.append(f'<a href="{_escape(target)}">{_escape(shown)}</a>')
        position = end
    pieces.append(_spaced(text[position:], position == 0))
    return "".join(pieces).replace("\n", "<br>\n")


def _link_end(text: str, start: int, end: int) -> int:
    """Where the link ends that may have punctuation behind it; a closing bracket belongs to it if it opened there."""
    surplus: dict[str, int] = {}
    while end > start:
        last = text[end - 1]
        if last in _BRACKETS:
            if last not in surplus:
                surplus[last] = text.count(last, start, end) - text.count(_BRACKETS[last], start, end)
            if surplus[last] <= 0:
                break
            surplus[last] -= 1
        elif last not in _TRAILING:
            break
        end -= 1
    return end


def _escape(text: str) -> str:
    """Fit for text and for an attribute in double quotes, which no link holds; other quotes stay as they are."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _spaced(text: str, at_start: bool) -> str:
    """``text`` escaped, its runs of spaces kept; ``at_start`` tells whether it begins a line."""
    escaped = _escape(text)
    if "  " not in escaped and "\n " not in escaped and not (at_start and escaped[:1] == " "):
        return escaped

    def kept(run: re.Match[str]) -> str:
        start, length = run.start(), len(run[0])
        if escaped[start - 1] == "\n" if start else at_start:
            return "&nbsp;" * length
        # The last one stays a space, at which a long line may wrap.
        return "&nbsp;" * (length - 1) + " "

    return _SPACES.sub(kept, escaped)


def _blocks(text: str) -> Iterator[tuple[str, str, bool]]:
    """Runs of whole lines that share direction ("" where all is left to right) and need of columns.

    Empty lines begin the block that follows, since a ``<br>`` at a block's end shows nothing.
    """
    is_ascii = text.isascii()
    is_mixed = not is_ascii and _RIGHT_TO_LEFT.search(text) is not None
    patch = _PATCH.search(text) if any(mark in text for mark in _PATCH_MARKS) else None
    has_columns = (
        patch is not None
        or "|" in text
        or ("  " in text and _GAP.search(text) is not None)
        or (not is_ascii and _DRAWING.search(text) is not None)
    )
    if not is_mixed and not has_columns:
        yield text, "", False
        return
    rest = ""
    if (end := text.find("\n", MAX_LOOKED_AT)) >= 0:
        text, rest = text[:end], text[end:]
    lines = text.split("\n")
    directions = _directions(lines) if is_mixed else [""] * len(lines)
    patch_line = text.count("\n", 0, patch.start()) if patch else len(lines)
    columns = _columns(lines[:patch_line]) + [True] * (len(lines) - patch_line) if has_columns else [False] * len(lines)
    kinds = list(zip(directions, columns, strict=True))
    for at in range(len(lines) - 2, -1, -1):
        if not lines[at]:
            kinds[at] = kinds[at + 1]
    at = 0
    for (direction, needs_columns), run in groupby(kinds):
        count = len(list(run))
        block = "\n".join(lines[at : at + count])
        at += count
        yield block if at < len(lines) else block + rest, direction, needs_columns


def _directions(lines: list[str]) -> list[str]:
    """``ltr`` or ``rtl`` of each line by its first letter (UAX #9, P2); without one, as the line before."""
    found: list[str] = []
    current = ""
    for line in lines:
        if letter := _LETTER.search(line):
            current = "rtl" if _RIGHT_TO_LEFT.match(letter[0]) else "ltr"
        found.append(current)
    first = next(filter(None, found), "")
    return [direction or first for direction in found]


def _columns(lines: list[str]) -> list[bool]:
    """Which lines belong to a table or drawing: neighbouring paragraphs with two lines or more that have columns.

    In each such paragraph a third of the lines or more must have them, so that prose stays prose.
    """
    needed = [False] * len(lines)
    paragraphs: list[tuple[int, int, int]] = []
    at = 0
    for is_blank, run in groupby(lines, key=lambda line: not line.strip()):
        block = list(run)
        if not is_blank:
            paragraphs.append((at, at + len(block), sum(map(_has_columns, block))))
        at += len(block)
    for is_table, group in groupby(paragraphs, key=lambda p: p[2] * 3 >= p[1] - p[0]):
        neighbours = list(group)
        if is_table and sum(count for _, _, count in neighbours) >= 2:
            first, last = neighbours[0][0], neighbours[-1][1]
            needed[first:last] = [True] * (last - first)
    return needed


def _has_columns(line: str) -> bool:
    content = line[_PREFIX.match(line).end() :].rstrip()  # type: ignore[union-attr]
    return bool(_GAP.search(content) or _DRAWING.search(content) or _BOX_LINE.fullmatch(content))


def unflow(text: str, *, delete_space: bool) -> str:
    """Text of ``format=flowed`` with its soft line breaks joined (RFC 3676); quoting keeps its depth."""
    lines: list[str] = []
    paragraph: list[str] = []
    open_depth: int | None = None
    for line in text.replace("\r\n", "\n").split("\n"):
        unquoted = line.lstrip(">")
        depth = len(line) - len(unquoted)
        content = unquoted.removeprefix(" ")
        is_signature = content == "-- "
        flowed = content.endswith(" ") and not is_signature
        if flowed and delete_space:
            content = content[:-1]
        if open_depth != depth or is_signature:
            lines.append("".join(paragraph))
            paragraph = [">" * depth + (" " if depth and content else "")]
        paragraph.append(content)
        open_depth = depth if flowed else None
    lines.append("".join(paragraph))
    return "\n".join(lines[1:])
