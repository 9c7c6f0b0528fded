"""What is told of a dead letter: to a person, to the webhook, and to the sender by a non-delivery notice (RFC 3464)."""

from __future__ import annotations

import hashlib
import html
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any, Final

import orjson
import pybase64

from shared.queued_message import QueuedMessage, StoredMessage

STATUS_CODES: Final = {
    400: "5.6.0",
    401: "5.7.8",
    402: "5.7.0",
    403: "5.7.1",
    409: "5.3.0",
    413: "5.3.4",
    422: "5.6.0",
}
"""The API's last status → enhanced status code (RFC 3463) of a notice; else 5.0.0, and 4.4.7 when time ran out."""

EXPIRED: Final = "4.4.7"
UNTELLABLE: Final = frozenset({401, 402, 403})
"""Statuses that would meet the notice as well: the project, not the message, was refused."""

MAX_SUBJECT: Final = 900


def describe(stored: StoredMessage) -> dict[str, Any]:
    """A dead letter without its content, as ``failed list --json`` and the webhook tell it. Times are RFC 3339."""
    message, answer = stored.message, stored.last_answer or {}
    return {
        "id": message.id,
        "project": message.project_id,
        "from": message.sender,
        "envelope_from": message.envelope_from,
        "to": list(message.recipients),
        "subject": message.subject,
        "message_id": message.message_id,
        "attempts": stored.attempts,
        "accepted_at": _rfc3339(message.accepted_at),
        "first_attempt_at": _rfc3339(stored.first_at),
        "last_attempt_at": _rfc3339(answer.get("at")),
        "died_at": _rfc3339(stored.died_at),
        "answer": {name: answer.get(name) for name in ("status", "code", "message")},
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterAftermath:
    """What a burial brings about: decided from the settings, stored by the burial's own step."""

    with_event: bool
    with_notice: bool
    reporting_mta: str
    """The relay's own name."""

    def event(self, stored: StoredMessage, *, attempts: int, answer: dict[str, Any]) -> bytes:
        """One JSON line for the webhook; b"" where there is none. No secret and no content of the message is in it."""
        if not self.with_event:
            return b""
        told = describe(stored) | {
            "type": "dead_letter",
            "attempts": attempts,
            "first_attempt_at": _rfc3339(stored.first_at or answer.get("at")),
            "last_attempt_at": _rfc3339(answer.get("at")),
            "died_at": _rfc3339(time.time()),
            "answer": {name: answer.get(name) for name in ("status", "code", "message")},
        }
        return orjson.dumps(told, option=orjson.OPT_APPEND_NEWLINE)

    def notice(self, stored: StoredMessage, *, attempts: int, answer: dict[str, Any]) -> QueuedMessage | None:
        """The notice to the envelope's sender; None where there must be none (see ``deserves_notice``)."""
        if not self.with_notice or not deserves_notice(stored, answer):
            return None
        return make_notice(stored, attempts=attempts, answer=answer, reporting_mta=self.reporting_mta)


def deserves_notice(stored: StoredMessage, answer: dict[str, Any]) -> bool:
    """Whether somebody should be told: never of a notice, nor of another automatic reply (RFC 3834), nor where the
    project itself is refused, so that the notice would be too."""
    status = answer.get("status")
    if not stored.message.envelope_from or status in UNTELLABLE or (status is None and answer.get("code")):
        return False
    headers = orjson.loads(stored.message.call).get("headers") or {}
    automatic = next((value for name, value in headers.items() if name.lower() == "auto-submitted"), "no")
    return str(automatic).strip().lower() == "no"


def make_notice(stored: StoredMessage, *, attempts: int, answer: dict[str, Any], reporting_mta: str) -> QueuedMessage:
    """A multipart/report's parts within what the API can carry: a text for people, the delivery status for programs,
    and the headers of the message.

    Its sender is the mailer-daemon of the message's own, verified domain; its envelope's sender is empty, so that it
    never brings about another. Its id comes from the message's, so that it is one mail however often it is made.
    """
    message = stored.message
    domain = message.sender.rpartition("@")[2]
    status = answer.get("status")
    words = " ".join(str(part) for part in (status, answer.get("message")) if part) or "no answer"
    code = STATUS_CODES.get(status, "5.0.0") if isinstance(status, int) and status < 500 else EXPIRED
    report = _status(message, code, words, reporting_mta, answer)
    headers = {"Auto-Submitted": "auto-replied"}
    if message.message_id.isascii() and message.message_id.isprintable() and message.message_id:
        headers |= {"In-Reply-To": message.message_id, "References": message.message_id}
    call = {
        "from": f"mailer-daemon@{domain}",
        "name": "Mail Delivery System",
        "to": [message.envelope_from],
        "subject": _inert(f"Undelivered: {message.subject}"[:MAX_SUBJECT]),
        "body": _inert(_text_for_people(message, words, attempts)),
        "headers": headers,
        "attachments": [
            _part("delivery-status.txt", "message/delivery-status", report),
            _part("headers.txt", "text/rfc822-headers", _headers(message)),
        ],
    }
    return QueuedMessage(
        id=hashlib.sha256(f"notice of {message.id}".encode()).hexdigest()[:32],
        project_id=message.project_id,
        sender=f"mailer-daemon@{domain}",
        recipients=(message.envelope_from,),
        envelope_from="",
        accepted_at=time.time(),
        body=orjson.dumps(call),
        subject=f"Undelivered: {message.subject}"[:MAX_SUBJECT],
    )


def _text_for_people(message: QueuedMessage, words: str, attempts: int) -> str:
    to = "".join(f"<li>{html.escape(recipient)}</li>" for recipient in message.recipients)
    return (
        f"<p>Your message could not be delivered after {attempts} attempt{'s' if attempts != 1 else ''}.</p>"
        f"<p>Subject: {html.escape(message.subject)}</p><p>To:</p><ul>{to}</ul>"
        f"<p>The last answer was: {html.escape(words)}</p>"
        "<p>It is kept at the relay, whose operator can have it tried again.</p>"
    )


def _status(message: QueuedMessage, code: str, words: str, reporting_mta: str, answer: dict[str, Any]) -> str:
    """RFC 3464 section 2: fields about the message, then a group of fields a recipient."""
    groups = [f"Reporting-MTA: dns; {reporting_mta}\nArrival-Date: {_rfc5322(message.accepted_at)}\n"]
    groups += [
        f"Final-Recipient: rfc822; {recipient}\nAction: failed\nStatus: {code}\n"
        f"Diagnostic-Code: x-plunk; {_one_line(words)}\nLast-Attempt-Date: {_rfc5322(answer.get('at'))}\n"
        for recipient in message.recipients
    ]
    return "\n".join(groups)


def _headers(message: QueuedMessage) -> str:
    fields = {
        "From": message.sender,
        "To": ", ".join(message.recipients),
        "Subject": message.subject,
        "Message-ID": message.message_id,
        "Date": _rfc5322(message.accepted_at),
    }
    return "".join(f"{name}: {_one_line(value)}\n" for name, value in fields.items() if value)


def _part(filename: str, content_type: str, text: str) -> dict[str, str]:
    content = pybase64.b64encode(text.replace("\n", "\r\n").encode()).decode()
    return {"filename": filename, "content": content, "contentType": content_type}


def _inert(text: str) -> str:
    """What the API would take for a template of its own, it shows as it is."""
    return _one_line(text.replace("{{", "{ {").replace("}}", "} }"))


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _rfc3339(at: float | None) -> str | None:
    return None if at is None else datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _rfc5322(at: float | None) -> str:
    return format_datetime(datetime.fromtimestamp(time.time() if at is None else at, UTC))
