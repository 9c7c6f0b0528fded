"""What a message shows and what it carries: the texts to be read, in order, and the files."""

from __future__ import annotations

from typing import Final

from ingress.message.plain_text import to_html, unflow
from ingress.message.structure import Part

FILE_TEXTS: Final = frozenset(
    {
        *("text/calendar", "text/vcard", "text/x-vcard", "text/directory", "text/rfc822-headers"),
        *("text/csv", "text/css", "text/javascript", "text/xml", "text/tab-separated-values"),
    }
)
"""Texts that programs read rather than people. Any other kind of text is shown as plain text (RFC 2046 4.1.4)."""


def read_contents(parts: list[Part]) -> tuple[list[Part], list[Part]]:
    """Texts to be read and files, each in order, of the parts of a message in order.

    Of a ``multipart/alternative`` the richest text is read that the API can carry; its files are kept whichever it is.
    """
    found: dict[Part, tuple[list[Part], list[Part]]] = {}
    # Children come after their parent, so backwards every part finds its children done.
    for part in reversed(parts):
        if not part.children:
            found[part] = ([], [part]) if _is_file(part) else ([part], [])
            continue
        read = [found.pop(child) for child in part.children]
        files = [file for _, inside in read for file in inside]
        if part.content_type == "multipart/alternative":
            found[part] = (_richest([texts for texts, _ in read if texts]), files)
        else:
            found[part] = ([text for texts, _ in read for text in texts], files)
    return found[parts[0]]


def to_body(texts: list[Part]) -> str:
    """One HTML body of all ``texts``, "" when there is nothing to read in them."""
    return "\n".join(_to_html(part) for part in texts if part.text().strip())


def is_related(part: Part) -> bool:
    """Whether ``part`` stands in a ``multipart/related``, at any depth."""
    parent = part.parent
    while parent is not None:
        if parent.content_type == "multipart/related":
            return True
        parent = parent.parent
    return False


def _is_file(part: Part) -> bool:
    if part.disposition == "attachment" or not part.content_type.startswith("text/") or part.content_type in FILE_TEXTS:
        return True
    parent = part.parent
    if parent is None or parent.content_type == "multipart/alternative":
        # The text of the message, even where a program gave it a name.
        return False
    if parent.content_type == "multipart/related":
        return parent.children[0] is not part and bool(part.content_id or part.filename)
    return bool(part.filename)


def _richest(alternatives: list[list[Part]]) -> list[Part]:
    """The last of the richest alternatives that has something to read; none of the others is even decoded."""
    ranked = sorted(enumerate(alternatives), key=lambda item: (min(map(_rank, item[1])), -item[0]))
    return next((texts for _, texts in ranked if any(part.text().strip() for part in texts)), [])


def _rank(part: Part) -> int:
    return {"text/html": 0, "text/plain": 1}.get(part.content_type, 2)


def _to_html(part: Part) -> str:
    text = part.text()
    if part.content_type == "text/html":
        return text
    if part.content_type == "text/plain" and part.parameters.get("format", "").lower() == "flowed":
        text = unflow(text, delete_space=part.parameters.get("delsp", "").lower() == "yes")
    return to_html(text)
