"""From a message's bytes to the JSON of ``POST /v1/send``: what the API would refuse is repaired or refused here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from ingress.message.addresses import Mailbox, parse_addresses
from ingress.message.control_headers import read_control
from ingress.message.headers import Headers, decode_words
from ingress.message.plain_text import to_html, unflow
from ingress.message.structure import Part, parse_structure
from ingress.replies import Replies
from shared.addresses import api_address, split_address

MAX_SUBJECT: Final = 998
MAX_HEADERS: Final = 50
MAX_HEADER_VALUE: Final = 998
MAX_FILENAME: Final = 255
"""The API's limits, in characters."""

STANDARD_HEADERS: Final = frozenset(
    {
        *("from", "to", "cc", "bcc", "subject", "reply-to", "sender"),
        *("date", "message-id", "mime-version", "return-path", "received", "delivered-to", "lines"),
        *("dkim-signature", "domainkey-signature", "authentication-results", "received-spf", "return-receipt-to"),
    }
)
"""Left out of ``headers``: they have fields of their own, or are made anew by who sends."""

STANDARD_PREFIXES: Final = ("x-plunk-", "arc-", "resent-", "content-")
"""Left out as well: the relay's own, traces of earlier ways, and what speaks of the body as it was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the API takes."""

    max_attachments: int = 10
    max_attachment_bytes: int = 10 * 1024 * 1024
    """All attachments together, before base64."""
    max_message_bytes: int = 10 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedMessage:
    """A message that the API's schema takes."""

    sender: str
    """The header From's first address, its domain in A-labels."""
    from_domains: tuple[str, ...]
    """Domains of all addresses in header From, lower-case A-labels: each must be verified."""
    message_id: str
    """The client's Message-ID, "" where there is none."""
    subject: str
    idempotency_key: str | None
    drop: bool
    body: bytes = field(repr=False)
    """JSON of the API call."""


def parse(raw: bytes, *, recipients: Sequence[str], limits: Limits = Limits()) -> ParsedMessage:
    """Reads a message for the envelope's ``recipients``; header Bcc counts for nothing. Raises ``SmtpError`` only."""
    root = parse_structure(raw)
    control = read_control(root.headers)
    senders = [box for value in root.headers.get_all("from") for box in parse_addresses(value)]
    sender, from_domains = _sender(senders)
    subject = _subject(root.headers, required=control.template is None)
    texts, files = _contents(root)
    attachments = _attachments(files, limits)
    body = _join(texts)
    if not body.strip() and control.template is None:
        if not attachments:
            raise Replies.BODY_MISSING.error()
        # A scanner's mail: files and no text. The API wants a body, so it gets an empty line.
        body = "<div><br></div>"
    fields: dict[str, Any] = {"from": sender}
    if senders[0].name:
        fields["name"] = senders[0].name
    fields["to"] = _recipients(recipients, root.headers)
    if subject:
        fields["subject"] = subject
    if body.strip():
        fields["body"] = body
    if reply := _reply(root.headers):
        fields["reply"] = reply
    if headers := _custom_headers(root.headers):
        fields["headers"] = headers
    if attachments:
        fields["attachments"] = attachments
    fields |= control.api_fields()
    return ParsedMessage(
        sender=sender,
        from_domains=from_domains,
        message_id=_one_line(root.headers.get("message-id"))[:MAX_HEADER_VALUE],
        subject=subject,
        idempotency_key=control.idempotency_key,
        drop=control.drop,
        body=orjson.dumps(fields),
    )


def _sender(senders: list[Mailbox]) -> tuple[str, tuple[str, ...]]:
    if not senders:
        raise Replies.FROM_MISSING.error()
    try:
        domains = dict.fromkeys(split_address(box.address)[1] for box in senders)
        return api_address(senders[0].address), tuple(domains)
    except ValueError:
        raise Replies.FROM_MISSING.error() from None


def _subject(headers: Headers, *, required: bool) -> str:
    subject = _one_line(decode_words(headers.get("subject")))
    if not subject and required:
        raise Replies.SUBJECT_MISSING.error()
    if len(subject) > MAX_SUBJECT:
        raise Replies.SUBJECT_TOO_LONG.error(limit=MAX_SUBJECT)
    return subject


def _recipients(recipients: Sequence[str], headers: Headers) -> list[Any]:
    names: dict[str, str] = {}
    for header in ("to", "cc"):
        for value in headers.get_all(header):
            for box in parse_addresses(value):
                if box.name and box.name.lower() != box.address.lower():
                    names.setdefault(box.address.lower(), box.name)
    return [
        {"name": names[address.lower()], "email": address} if address.lower() in names else address
        for address in recipients
    ]


def _reply(headers: Headers) -> str | None:
    for box in parse_addresses(headers.get("reply-to")):
        try:
            return api_address(box.address)
        except ValueError:
            continue
    return None


def _custom_headers(headers: Headers) -> dict[str, str]:
    """Every header that is not standard, duplicates joined by a comma.

    Past the API's limits no mail is refused: the first 50 names are kept, a long References loses its oldest ids and
    any other value over 998 characters is left out whole, since half a value may mean something else.
    """
    kept: dict[str, str] = {}
    spelled: dict[str, str] = {}
    for name, raw in headers.fields:
        key = name.lower()
        value = _one_line(decode_words(raw))
        if key in STANDARD_HEADERS or key.startswith(STANDARD_PREFIXES) or not value:
            continue
        if key in spelled:
            kept[spelled[key]] += ", " + value
        elif len(kept) < MAX_HEADERS:
            spelled[key] = name
            kept[name] = value
    for key, name in spelled.items():
        if len(kept[name]) > MAX_HEADER_VALUE:
            if key == "references":
                kept[name] = kept[name][-MAX_HEADER_VALUE:].partition(" ")[2]
            else:
                del kept[name]
    return kept


def _contents(part: Part) -> tuple[list[tuple[bool, str]], list[tuple[Part, bool]]]:
    """Texts to be read, in order, as (is HTML, text), and files as (part, stands in a multipart/related)."""
    if not part.children:
        if part.is_attachment:
            return [], [(part, False)]
        text = part.text()
        if part.content_type == "text/plain" and part.parameters.get("format", "").lower() == "flowed":
            text = unflow(text, delete_space=part.parameters.get("delsp", "").lower() == "yes")
        return ([(part.content_type == "text/html", text)] if text.strip() else []), []
    read = [_contents(child) for child in part.children]
    files = [
        (file, related or part.content_type == "multipart/related") for _, found in read for file, related in found
    ]
    if part.content_type != "multipart/alternative":
        return [text for texts, _ in read for text in texts], files
    with_text = [texts for texts, _ in read if texts]
    with_html = [texts for texts in with_text if any(is_html for is_html, _ in texts)]
    return ((with_html or with_text or [[]])[-1], files)


def _join(texts: list[tuple[bool, str]]) -> str:
    return "\n".join(text if is_html else to_html(text) for is_html, text in texts)


def _attachments(files: list[tuple[Part, bool]], limits: Limits) -> list[dict[str, str]]:
    attachments: list[dict[str, str]] = []
    for number, (part, related) in enumerate(files, start=1):
        content = part.base64()
        if not content:
            # The API refuses an empty file; there is nothing in it to lose.
            continue
        attachment = {
            "filename": _filename(part, number),
            "content": content,
            "contentType": _content_type(part),
        }
        if part.content_id and (related or part.disposition == "inline"):
            attachment |= {"contentId": part.content_id, "disposition": "inline"}
        attachments.append(attachment)
    if len(attachments) > limits.max_attachments:
        raise Replies.TOO_MANY_ATTACHMENTS.error(count=len(attachments), limit=limits.max_attachments)
    size, allowed = sum(len(a["content"]) for a in attachments), limits.max_attachment_bytes * 4 // 3
    if size > allowed:
        raise Replies.ATTACHMENTS_TOO_LARGE.error(size=size, limit=allowed)
    return attachments


_EXTENSIONS: Final = {
    "message/rfc822": ".eml",
    "text/calendar": ".ics",
    "text/plain": ".txt",
    "text/html": ".html",
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/gif": ".gif",
    "application/pdf": ".pdf",
    "message/delivery-status": ".txt",
    "application/ms-tnef": ".dat",
}


def _filename(part: Part, number: int) -> str:
    name = _one_line(part.filename.replace('"', "'").replace("\\", "/").rpartition("/")[2])
    if len(name) > MAX_FILENAME:
        stem, dot, extension = name.rpartition(".")
        keep = f"{dot}{extension}" if dot and len(extension) <= 16 else ""
        name = (stem if keep else name)[: MAX_FILENAME - len(keep)] + keep
    return name or f"attachment-{number}{_EXTENSIONS.get(part.content_type, '')}"


def _content_type(part: Part) -> str:
    if part.content_type == "text/calendar":
        extra = "".join(f"; {key}={part.parameters[key]}" for key in ("method", "charset") if key in part.parameters)
        return _one_line(part.content_type + extra)[:MAX_FILENAME]
    return _one_line(part.content_type)[:MAX_FILENAME] or "application/octet-stream"


def _one_line(text: str) -> str:
    """``text`` on one line: line breaks and other control characters become single spaces."""
    return re.sub(r"[\x00-\x1f\x7f\x85\u2028\u2029]+", " ", text).strip()


__all__ = ["Limits", "ParsedMessage", "parse"]
