"""The corpus: messages as they came over the wire, each with the API's call or the refusal that it must become."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson

from ingress.message import parse
from ingress.replies import SmtpError

FOLDER: Final = Path(__file__).parents[1] / "corpus"
RECIPIENTS: Final = ("bob@x.example",)
"""The envelope's recipients where an expectation states no others."""

READ: Final = FOLDER / "read.tsv"
"""``NAME<TAB>digest of the message<TAB>digest of its expectation``: what somebody has read, one beside the other."""

DIGITS: Final = 16
"""First hex digits of the SHA-256 that the record holds."""

LONG_CONTENT: Final = 200
"""Base64 characters up to which an expectation holds an attachment's content rather than its size and SHA-256."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One message of the corpus; either ``expected`` or ``refusal`` is filled."""

    name: str
    raw: bytes = field(repr=False)
    expected: dict[str, Any]
    """``{"recipients"?: [...], "call": {...}, "message_id"?, "from_domains"?, "idempotency_key"?, "drop"?}``."""
    refusal: str
    """The whole reply, "" where there is none."""

    @property
    def recipients(self) -> tuple[str, ...]:
        return tuple(self.expected.get("recipients", RECIPIENTS))


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.eml"))


def load(name: str) -> Example:
    """Raises ``FileNotFoundError`` when the message has no expectation."""
    refusal = FOLDER / f"{name}.refusal"
    is_refused = refusal.exists()
    return Example(
        name=name,
        raw=(FOLDER / f"{name}.eml").read_bytes(),
        expected={} if is_refused else json.loads((FOLDER / f"{name}.json").read_text("utf-8")),
        refusal=refusal.read_text("utf-8").strip() if is_refused else "",
    )


def digests(name: str) -> tuple[str, str]:
    """Of the message and of what lies beside it. Raises ``FileNotFoundError`` when it has no expectation."""
    refusal = FOLDER / f"{name}.refusal"
    beside = refusal if refusal.exists() else FOLDER / f"{name}.json"
    message, expectation = (
        hashlib.sha256(path.read_bytes()).hexdigest()[:DIGITS] for path in (FOLDER / f"{name}.eml", beside)
    )
    return message, expectation


def readings() -> dict[str, tuple[str, str]]:
    """By name, the digests of what was read."""
    rows = (line.split("\t") for line in READ.read_text("utf-8").splitlines())
    return {name: (message, expectation) for name, message, expectation in rows}


def shape(call: dict[str, Any]) -> dict[str, Any]:
    """``call`` as expectations hold it: long contents as their decoded size and SHA-256."""
    shaped = dict(call)
    if "attachments" in call:
        shaped["attachments"] = [_shape_file(attachment) for attachment in call["attachments"]]
    return shaped


def _shape_file(attachment: dict[str, str]) -> dict[str, Any]:
    content = attachment["content"]
    if len(content) <= LONG_CONTENT:
        return dict(attachment)
    data = base64.b64decode(content, validate=True)
    rest = {key: value for key, value in attachment.items() if key != "content"}
    return {**rest, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def outcome(raw: bytes, recipients: Sequence[str]) -> dict[str, Any] | str:
    """What the parser makes of a message: all that an expectation may hold, or the reply of a refusal."""
    try:
        message = parse(raw, recipients=recipients)
    except SmtpError as refused:
        return str(refused.reply)
    return {
        "recipients": list(recipients),
        "call": shape(orjson.loads(message.call)),
        "message_id": message.message_id,
        "from_domains": list(message.from_domains),
        "idempotency_key": message.idempotency_key,
        "drop": message.drop,
    }
