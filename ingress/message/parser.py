"""From a message's bytes to the JSON of ``POST /v1/send``: what the API would refuse is repaired or refused here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
import pybase64

from ingress.message.addresses import Mailbox, display_name, parse_addresses, split_addresses
from ingress.message.attachments import Attachment, is_longer, read_attachment, utf16_length
from ingress.message.chunks import CHUNK
from ingress.message.contents import read_contents, to_body
from ingress.message.control_headers import NOTHING, PREFIX, read_control
from ingress.message.headers import Headers, decode_words, one_line
from ingress.message.structure import Part, parse_structure
from ingress.replies import Replies
from shared.addresses import api_address, join_address, split_address
from shared.json_parts import SMALL, Base64, JsonParts, base64_length

MAX_SUBJECT: Final = 998
MAX_HEADERS: Final = 50
MAX_HEADER_VALUE: Final = 998
"""The API's limits, in UTF-16 units: it counts as JavaScript does."""

MAX_CALL_BYTES: Final = 50 * 1024 * 1024
"""The API's limit of one request's JSON, in bytes."""

STANDARD_HEADERS: Final = frozenset(
    {
        *("from", "to", "cc", "bcc", "subject", "reply-to", "sender"),
        *("date", "mime-version", "return-path", "received", "delivered-to", "lines"),
        *("x-original-to", "envelope-to", "x-envelope-to"),
        *("x-originating-ip", "x-sender-ip", "x-client-ip"),
        *("dkim-signature", "domainkey-signature", "authentication-results", "received-spf", "return-receipt-to"),
    }
)
"""Left out of ``headers``: they have fields of their own, or are made anew by who sends."""

STANDARD_PREFIXES: Final = (PREFIX, "arc-", "resent-", "content-")
"""Left out as well: the relay's own, traces of earlier ways, and what speaks of the body as it was."""

SEPARATORS: Final = {"references": " ", "in-reply-to": " "}
"""What joins the values of a header that occurs several times; a comma and a space where nothing else is said."""

KEPT_FIRST: Final = ("message-id", "in-reply-to", "references", "list-", "auto-submitted", "precedence", "importance")
"""Beginnings of names that are kept before others when there are more headers than the API takes."""

_MESSAGE_ID: Final = re.compile(r"<[^<>\s]+>")
_EMPTY_BODY: Final = "<div><br></div>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the API takes."""

    max_attachments: int = 10
    max_attachment_bytes: int = 10 * 1024 * 1024
    """All attachments together, before base64."""
    max_message_bytes: int = 10 * 1024 * 1024


# Not frozen, since that makes each field of a new object cost a call.
@dataclass(slots=True, kw_only=True)
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
    headers_left_out: tuple[str, ...] = ()
    """Names of headers that are not passed on because the API's limits leave no room for them."""
    body: bytes | JsonParts = field(repr=False)
    """JSON of the API call."""

    @property
    def call(self) -> bytes:
        """``body`` as one piece, as a queued message has it."""
        return bytes(self.body)


def parse(raw: bytes, *, recipients: Sequence[str], limits: Limits = Limits()) -> ParsedMessage:
    """Reads a message for the envelope's ``recipients``; header Bcc counts for nothing. Raises ``SmtpError`` only."""
    parts = parse_structure(raw)
    headers = parts[0].headers
    control = read_control(headers)
    senders = [box for value in headers.get_all("from") for box in parse_addresses(value)]
    sender, from_domains = _sender(senders)
    subject = _subject(headers, required=control.template is None)
    texts, files = read_contents(parts)
    body = to_body(texts)
    attachments = _attachments(files, body, limits)
    if not body and control.template is None:
        # A scanner's mail, or one that says all in its subject. The API wants a body, so it gets an empty line.
        body = _EMPTY_BODY
    fields: dict[str, Any] = {"from": sender}
    if senders[0].name:
        fields["name"] = senders[0].name
    fields["to"] = _recipients(recipients, headers)
    if subject:
        fields["subject"] = subject
    if body:
        fields["body"] = body
    if reply := _reply(headers):
        fields["reply"] = reply
    custom_headers, left_out = _custom_headers(headers)
    if custom_headers:
        fields["headers"] = custom_headers
    if control is not NOTHING:
        fields |= control.api_fields()
    call = _json(fields, attachments)
    if len(call) > MAX_CALL_BYTES:
        raise Replies.CALL_TOO_LARGE.error(size=len(call), limit=MAX_CALL_BYTES)
    return ParsedMessage(
        sender=sender,
        from_domains=from_domains,
        message_id=one_line(headers.get("message-id"))[:MAX_HEADER_VALUE],
        subject=subject,
        idempotency_key=control.idempotency_key,
        drop=control.drop,
        headers_left_out=tuple(left_out),
        body=call,
    )


def _json(fields: dict[str, Any], attachments: list[Attachment]) -> bytes | JsonParts:
    """The call's JSON; in parts where an attachment is large."""
    body = fields.get("body", "")
    if not attachments and len(body) <= CHUNK:
        return orjson.dumps(fields)
    if len(body) > CHUNK:
        del fields["body"]
    if len(body) <= CHUNK and sum([len(attachment.data) for attachment in attachments]) <= SMALL:
        fields["attachments"] = [
            attachment.api_fields() | {"content": pybase64.b64encode_as_string(attachment.data)}
            for attachment in attachments
        ]
        return orjson.dumps(fields)
    pieces: list[bytes | Base64] = [orjson.dumps(fields)[:-1]]
    if len(body) > CHUNK:
        pieces.append(b',"body":"')
        pieces += (orjson.dumps(body[at : at + CHUNK])[1:-1] for at in range(0, len(body), CHUNK))
        pieces.append(b'"')
    for number, attachment in enumerate(attachments):
        pieces.append(b"," if number else b',"attachments":[')
        pieces += attachment.json()
    pieces.append(b"]}" if attachments else b"}")
    if any(len(attachment.data) > SMALL for attachment in attachments):
        return JsonParts(pieces)
    return b"".join(pieces)  # type: ignore[arg-type]


def _sender(senders: list[Mailbox]) -> tuple[str, tuple[str, ...]]:
    if not senders:
        raise Replies.FROM_MISSING.error()
    try:
        addresses = [split_address(box.address) for box in senders]
        sender = join_address(*addresses[0])
    except ValueError:
        raise Replies.FROM_MISSING.error() from None
    return sender, tuple(dict.fromkeys([domain for _, domain in addresses]))


def _subject(headers: Headers, *, required: bool) -> str:
    subject = one_line(decode_words(headers.get("subject")))
    if not subject and required:
        raise Replies.SUBJECT_MISSING.error()
    if is_longer(subject, MAX_SUBJECT):
        raise Replies.SUBJECT_TOO_LONG.error(limit=MAX_SUBJECT)
    return subject


def _recipients(recipients: Sequence[str], headers: Headers) -> list[Any]:
    wanted = {recipient.lower() for recipient in recipients}
    names: dict[str, str] = {}
    for header in ("to", "cc"):
        for value in headers.get_all(header):
            if "<" not in value and "(" not in value:
                # Addresses alone, be they a hundred thousand: there is no name to find.
                continue
            for name, address in split_addresses(value):
                if not name:
                    continue
                key = _folded(address)
                if key in wanted and key not in names:
                    shown = display_name(name)
                    if shown and shown.lower() != address.lower():
                        names[key] = shown
                        if len(names) == len(wanted):
                            break
    if not names:
        return list(recipients)
    return [
        {"name": names[address.lower()], "email": address} if address.lower() in names else address
        for address in recipients
    ]


def _folded(address: str) -> str:
    if not address.isascii():
        try:
            local, domain = split_address(address)
        except ValueError:
            return address
        address = f"{local}@{domain}"
    return address.lower()


def _reply(headers: Headers) -> str | None:
    for value in headers.get_all("reply-to"):
        for _, address in split_addresses(value):
            try:
                return api_address(address)
            except ValueError:
                continue
    return None


def _custom_headers(headers: Headers) -> tuple[dict[str, str], list[str]]:
    """Every header that is not standard, duplicates joined, and the names of those that the API's limits leave out.

    Past the limits no mail is refused. Of more than 50 names those go first that mail programs act upon
    (``KEPT_FIRST``), then the others in order. A value over 998 characters is left out whole, since half a value may
    mean something else; but References keeps its first id and the newest ones, as mail programs shorten it.
    """
    values: dict[str, str] = {}
    spelled: dict[str, str] = {}
    for key, name, raw in headers.fields:
        if key in STANDARD_HEADERS or key.startswith(STANDARD_PREFIXES):
            continue
        value = one_line(decode_words(raw) if "=?" in raw else raw)
        if not value:
            continue
        if key not in values:
            spelled[key] = name
            values[key] = value
        elif key != "message-id":
            values[key] += SEPARATORS.get(key, ", ") + value
    left_out: list[str] = []
    if "message-id" in values and not _MESSAGE_ID.fullmatch(values["message-id"]):
        del values["message-id"]
    for key in [key for key, value in values.items() if is_longer(value, MAX_HEADER_VALUE)]:
        if key == "references" and (shortened := _shortened(values[key])):
            values[key] = shortened
        else:
            left_out.append(spelled[key])
            del values[key]
    if len(values) > MAX_HEADERS:
        kept = sorted(values, key=lambda key: not key.startswith(KEPT_FIRST))
        left_out += [spelled[key] for key in kept[MAX_HEADERS:]]
        values = {key: values[key] for key in kept[:MAX_HEADERS]}
    return {spelled[key]: value for key, value in values.items()}, left_out


def _shortened(references: str) -> str:
    """The first id and as many of the newest as there is room for; "" when there is room for none."""
    first, *others = references.split()
    room = MAX_HEADER_VALUE - utf16_length(first)
    newest: list[str] = []
    for other in reversed(others):
        room -= utf16_length(other) + 1
        if room < 0:
            break
        newest.append(other)
    return " ".join([first, *reversed(newest)]) if newest else ""


def _attachments(files: list[Part], body: str, limits: Limits) -> list[Attachment]:
    if len(files) > limits.max_attachments:
        # Empty files do not count; whether there are any is looked at only where it matters.
        files = [part for part in files if part.data()]
    if len(files) > limits.max_attachments:
        raise Replies.TOO_MANY_ATTACHMENTS.error(count=len(files), limit=limits.max_attachments)
    attachments: list[Attachment] = []
    size = 0
    for number, part in enumerate(files, start=1):
        content_id = part.content_id
        inline = bool(content_id) and (
            part.disposition == "inline" or "multipart/related" in part.within or f"cid:{content_id}" in body
        )
        if attachment := read_attachment(part, number, inline=inline):
            attachments.append(attachment)
            size += base64_length(len(attachment.data))
    if size > (allowed := limits.max_attachment_bytes * 4 // 3):
        raise Replies.ATTACHMENTS_TOO_LARGE.error(size=size, limit=allowed)
    return attachments


__all__ = ["Limits", "ParsedMessage", "parse"]
