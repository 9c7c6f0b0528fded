"""What a message shows and what it carries: the texts to be read, in order, and the files."""

from __future__ import annotations

from typing import Final

from ingress.message.chunks import text_chunks
from ingress.message.html_pages import Text, join_texts
from ingress.message.plain_text import to_html, unflow
from ingress.message.structure import Part, bare_id
from ingress.message.transfer_encodings import shorten_line_breaks

FILE_TEXTS: Final = frozenset(
    {
        *("text/calendar", "text/vcard", "text/x-vcard", "text/directory", "text/rfc822-headers"),
        *("text/csv", "text/css", "text/javascript", "text/xml", "text/tab-separated-values"),
    }
)
"""Texts that programs read rather than people. Any other kind of text is shown as plain text (RFC 2046 4.1.4)."""

RANKS: Final = {"text/html": 0, "text/plain": 1}
"""The types that most texts have, the richest first; any other text comes last."""

CALENDARS: Final = frozenset({"text/calendar", "application/ics"})


def read_contents(parts: list[Part]) -> tuple[list[Part], list[Part]]:
    """Texts to be read and files, each in order, of the parts of a message in order.

    Of a ``multipart/alternative`` the richest text is read that the API can carry; its files are kept whichever it is.
    """
    if not parts[0].children:
        return ([], parts[:1]) if _is_file(parts[0]) else (parts[:1], [])
    texts, files = _read_multipart(parts)
    return texts, _each_calendar_once(files) if len(files) > 1 else files


def _read_multipart(parts: list[Part]) -> tuple[list[Part], list[Part]]:
    """Texts and files of a message of several parts."""
    found: dict[Part, tuple[list[Part], list[Part]]] = {}
    # Children come after their parent, so backwards every part finds its children done.
    for part in reversed(parts):
        if part.children:
            found[part] = _READERS.get(part.content_type, _read_mixed)(part, found)
    return found[parts[0]]


Found = dict[Part, tuple[list[Part], list[Part]]]
"""Texts and files of the multiparts that are done."""


def _read_mixed(part: Part, found: Found) -> tuple[list[Part], list[Part]]:
    """All texts in order; a text with a name is a file."""
    texts: list[Part] = []
    files: list[Part] = []
    for child in part.children:
        if child.children:
            inner_texts, inner_files = found.pop(child)
            texts += inner_texts
            files += inner_files
        elif _is_file(child) or child.filename:
            files.append(child)
        else:
            texts.append(child)
    return texts, files


def _read_alternative(part: Part, found: Found) -> tuple[list[Part], list[Part]]:
    """The richest text; the files of all alternatives."""
    alternatives: list[list[Part]] = []
    files: list[Part] = []
    for child in part.children:
        if child.children:
            texts, inner_files = found.pop(child)
            files += inner_files
            if texts:
                alternatives.append(texts)
        elif _is_file(child):
            files.append(child)
        else:
            alternatives.append([child])
    return _richest(alternatives), files


def _read_related(part: Part, found: Found) -> tuple[list[Part], list[Part]]:
    """The root's texts (RFC 2387 section 3.2: the part that ``start`` names, else the first), or the first text's where
    the root is none; whatever else it refers to is a file, texts with an id or a name included."""
    start = bare_id(part.parameters.get("start", ""))
    children = part.children
    readable = [child for child in children if (found[child][0] if child.children else not _is_file(child))]
    root = next((child for child in children if start and child.content_id == start), children[0])
    if root not in readable and readable:
        root = readable[0]
    texts: list[Part] = []
    files: list[Part] = []
    for child in children:
        if child.children:
            inner_texts, inner_files = found.pop(child)
            texts += inner_texts
            files += inner_files
        elif _is_file(child) or (child is not root and (child.content_id or child.filename)):
            files.append(child)
        else:
            texts.append(child)
    return texts, files


_READERS: Final = {"multipart/alternative": _read_alternative, "multipart/related": _read_related}
"""How a multipart is read, by its type; any other one as ``multipart/mixed`` (RFC 2046 section 5.1.3)."""


def _each_calendar_once(files: list[Part]) -> list[Part]:
    """Calendars write an invitation twice: as an alternative of the text, by which mail programs know it, and as a file
    that bears a name. One goes, where the file stood and under its name, with the type of the other and its method."""
    invitations = [part for part in files if part.content_type == "text/calendar" and _is_alternative(part)]
    if not invitations:
        return files
    named = {_calendar_lines(part): part for part in files if _is_calendar(part) and not _is_alternative(part)}
    instead: dict[Part, Part] = {}
    for invitation in invitations if named else ():
        file = named.get(_calendar_lines(invitation))
        if file is not None:
            invitation.disposition_parameters = {"filename": file.filename or invitation.filename}
            instead[file] = invitation
    moved = set(instead.values())
    return [instead.get(part, part) for part in files if part not in moved]


def _calendar_lines(part: Part) -> bytes:
    """What a calendar says: how its lines end, and whether the last one does, differs between encodings."""
    return shorten_line_breaks(part.data()).rstrip()


def _is_alternative(part: Part) -> bool:
    return part.within[0] == "multipart/alternative" and part.disposition != "attachment"


def _is_calendar(part: Part) -> bool:
    return part.content_type in CALENDARS or part.filename.lower().endswith(".ics")


def to_body(texts: list[Part]) -> str:
    """One HTML body of all ``texts``, "" when there is nothing to read in them."""
    readable = [part for part in texts if not part.is_blank]
    if len(readable) == 1:
        return _to_html(readable[0])
    return join_texts([Text(_to_html(part), part.content_type == "text/html") for part in readable])


def _is_file(part: Part) -> bool:
    """Whether a part is a file whatever stands around it."""
    if part.disposition == "attachment":
        return True
    content_type = part.content_type
    return content_type not in RANKS and (not content_type.startswith("text/") or content_type in FILE_TEXTS)


def _richest(alternatives: list[list[Part]]) -> list[Part]:
    """The last of the richest alternatives that has something to read; none of the others is even decoded."""
    # The last comes first among its equals, since sorting keeps their order.
    ranked = alternatives[::-1]
    ranked.sort(key=_rank)
    for texts in ranked:
        for part in texts:
            if not part.is_blank:
                return texts
    return []


def _rank(texts: list[Part]) -> int:
    return min([RANKS.get(part.content_type, len(RANKS)) for part in texts])


def _to_html(part: Part) -> str:
    text = part.text()
    if part.content_type == "text/html":
        return text
    if part.content_type == "text/plain" and part.parameters.get("format", "").lower() == "flowed":
        text = unflow(text, delete_space=part.parameters.get("delsp", "").lower() == "yes")
    return "\n".join(map(to_html, text_chunks(text)))
