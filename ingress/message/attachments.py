"""Attachments: names and types cleaned to what the API takes, contents as base64, and their JSON."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import orjson
import pybase64

from ingress.message.headers import one_line
from ingress.message.structure import Part
from shared.json_parts import SMALL, Base64

MAX_FILENAME: Final = 255
MAX_CONTENT_TYPE: Final = 255
MAX_CONTENT_ID: Final = 998
"""The API's limits, in UTF-16 units: it counts as JavaScript does."""

MAX_EXTENSION: Final = 16
"""Longest extension, dot included, that a shortened file name keeps."""

EXTENSIONS: Final = {
    "application/ms-tnef": ".dat",
    "application/pdf": ".pdf",
    "image/gif": ".gif",
    "image/jpeg": ".jpg",
    "image/png": ".png",
    "message/delivery-status": ".txt",
    "message/disposition-notification": ".txt",
    "message/feedback-report": ".txt",
    "message/global": ".eml",
    "message/global-delivery-status": ".txt",
    "message/global-headers": ".txt",
    "message/rfc822": ".eml",
    "text/calendar": ".ics",
    "text/csv": ".csv",
    "text/html": ".html",
    "text/plain": ".txt",
    "text/rfc822-headers": ".txt",
    "text/vcard": ".vcf",
    "text/x-vcard": ".vcf",
}
"""For parts without a name."""


KEPT_PARAMETERS: Final = {
    "text": ("charset",),
    "text/calendar": ("method", "charset"),
    "application/pkcs7-mime": ("smime-type",),
    "application/x-pkcs7-mime": ("smime-type",),
}
"""By type, or by what stands before the slash: an invitation without its method is only a file."""

_TYPE: Final = re.compile(r"[\w!#$&^.+-]+/[\w!#$&^.+-]+", re.ASCII)
_VALUE: Final = re.compile(r"[\w!#$%&'*+.^`{|}~:-]+", re.ASCII)


# Not frozen, since that makes each field of a new object cost a call.
@dataclass(slots=True, kw_only=True)
class Attachment:
    """One file of the message, as the API takes it."""

    filename: str
    content_type: str
    content_id: str
    """"" for a file that the text does not show."""
    data: bytes
    """Never empty."""

    def api_fields(self) -> dict[str, str]:
        """The API's fields but ``content``."""
        fields = {"filename": self.filename, "contentType": self.content_type}
        if self.content_id:
            fields["contentId"] = self.content_id
            fields["disposition"] = "inline"
        return fields

    def json(self) -> Iterator[bytes | Base64]:
        """The attachment's JSON in parts. Base64 needs no escaping, so megabytes of it go in as they are."""
        yield orjson.dumps(self.api_fields())[:-1]
        yield b',"content":"'
        yield Base64(self.data) if len(self.data) > SMALL else pybase64.b64encode(self.data)
        yield b'"}'


def read_attachment(part: Part, number: int, *, inline: bool) -> Attachment | None:
    """``part`` as the ``number``-th file (from 1); None for an empty one, which the API does not take."""
    data = part.data()
    if not data:
        return None
    return Attachment(
        filename=_filename(part, number),
        content_type=_content_type(part),
        content_id=part.content_id if inline and not is_longer(part.content_id, MAX_CONTENT_ID) else "",
        data=data,
    )


def utf16_length(text: str) -> int:
    """Length of ``text`` as JavaScript counts it."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le", "replace")) // 2


def is_longer(text: str, limit: int) -> bool:
    """Whether ``text`` is longer than ``limit`` as JavaScript counts it, which for a short text needs no counting."""
    return len(text) * 2 > limit and utf16_length(text) > limit


def cut(text: str, limit: int) -> str:
    """The longest beginning of ``text`` within ``limit`` UTF-16 units."""
    text = text[:limit]
    while (over := utf16_length(text) - limit) > 0:
        text = text[: -max(1, over // 2)]
    return text


def _filename(part: Part, number: int) -> str:
    name = one_line(part.filename).replace('"', "'").replace("\\", "/").rstrip("/").rpartition("/")[2].strip()
    if is_longer(name, MAX_FILENAME):
        stem, dot, extension = name.rpartition(".")
        keep = f".{extension}" if dot and utf16_length(extension) < MAX_EXTENSION else ""
        name = cut(stem if keep else name, MAX_FILENAME - utf16_length(keep)) + keep
    return name or f"attachment-{number}{'' if part.is_type_unreadable else EXTENSIONS.get(part.content_type, '')}"


def _content_type(part: Part) -> str:
    """The type, with the parameters without which its reader cannot make anything of it."""
    content_type = part.content_type
    if part.is_type_unreadable or not _TYPE.fullmatch(content_type) or len(content_type) > MAX_CONTENT_TYPE:
        return "application/octet-stream"
    for key in KEPT_PARAMETERS.get(content_type) or KEPT_PARAMETERS.get(content_type.partition("/")[0], ()):
        value = part.parameters.get(key, "")
        if _VALUE.fullmatch(value) and len(content_type) + len(value) < MAX_CONTENT_TYPE - MAX_EXTENSION:
            content_type += f"; {key}={value}"
    return content_type
