"""The queued message: the one contract between the ingress and the forwarder, and its codec.

A queued message holds its project's id, never the project's secret, so no key lies in Redis, its dumps or a dashboard,
and a secret rotated while mail waits does not lose that mail. The body is the ready-made JSON of ``POST /v1/send``: the
forwarder streams these bytes as they are.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import orjson

from shared.identifiers import random_hex
from shared.json_parts import JsonParts

CODEC_VERSION: Final = 4
"""Version written into every envelope. A reader accepts this and every earlier one.

Bodies in pieces came with 3; pieces that stand for their base64, and the field that tells which do, with 4.
"""


MAX_KEY_LENGTH: Final = 255
"""Longest Idempotency-Key that the API takes, in characters."""


class CodecError(Exception):
    """A stored message cannot be read by this release; it stays where it is until a person or a newer release acts."""


class State(StrEnum):
    """Where a stored message stands. Sent messages are gone, so that state has no name here."""

    WAITING = "waiting"
    """It stands in its project's lane."""
    SENDING = "sending"
    """A job has it in hand."""
    RETRY = "retry"
    """It waits for the time of its next attempt."""
    DEAD = "dead"
    """A dead letter: kept whole until a person retries or discards it."""


def new_message_id() -> str:
    """A fresh message id: 32 hex digits. It is also the idempotency key of the message's first generation."""
    return random_hex(16)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedMessage:
    """What the ingress hands over. All of it is immutable once Redis has acknowledged it."""

    id: str
    """32 hex digits; what the 250 and every log line of this message carry."""
    project_id: str
    """The project that authenticated; its secret is looked up when the message is sent."""
    sender: str
    """Address of the header From, as the API gets it."""
    recipients: tuple[str, ...]
    """Envelope recipients, in order."""
    envelope_from: str
    """Address of MAIL FROM: where a non-delivery notice would go."""
    accepted_at: float
    """Unix time in seconds at which the relay took it on."""
    body: bytes | JsonParts = field(repr=False)
    """JSON of the API call; of a message that was read from the store as one piece."""
    message_id: str = ""
    """The client's Message-ID header, for logs."""
    subject: str = ""
    """For the dead letters' list; at most 998 characters."""
    idempotency_key: str | None = None
    """The client's own key, where it gave one; otherwise the id serves."""
    digest: str = ""
    """Fingerprint of project, envelope, Message-ID and content: how a client's repeat is recognised; "" = never."""

    @property
    def call(self) -> bytes:
        """``body`` as one piece, ready to be posted."""
        return bytes(self.body)

    def envelope(self) -> bytes:
        """All fields but the body, as versioned JSON."""
        return orjson.dumps(
            {
                "v": CODEC_VERSION,
                "id": self.id,
                "project": self.project_id,
                "sender": self.sender,
                "recipients": self.recipients,
                "envelope_from": self.envelope_from,
                "accepted_at": self.accepted_at,
                "message_id": self.message_id,
                "subject": self.subject,
                "idempotency_key": self.idempotency_key,
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredMessage:
    """A queued message as Redis holds it, with what has become of it so far."""

    message: QueuedMessage
    state: State
    job_id: str
    """The RQ job that has it in hand (or had it last)."""
    attempts: int
    """API calls that were judged so far; a wait for a rate limit is not counted."""
    generation: int
    """1 for the first idempotency key; one more after each key that the API has spent on an unknown outcome."""
    last_answer: dict[str, Any] | None
    """The last answer: ``{"at": unix seconds, "status": int | None, "code": str, "message": str}``."""
    first_at: float | None = None
    """Unix time of the first judged attempt that did not send it."""
    died_at: float | None = None
    """Unix time at which it became a dead letter."""
    since: float | None = None
    """Unix time at which a person had it tried again: its lifetime begins there."""

    @property
    def lifetime_from(self) -> float:
        """Unix time from which its lifetime counts."""
        return self.since or self.message.accepted_at

    @property
    def idempotency_key(self) -> str:
        """``<id>``, then ``<id>.2``, ``<id>.3``, … (the client's own key in place of the id where it gave one)."""
        base = self.message.idempotency_key or self.message.id
        if self.generation == 1:
            return base
        suffix = f".{self.generation}"
        if len(base) + len(suffix) > MAX_KEY_LENGTH:
            base = hashlib.sha256(base.encode()).hexdigest()
        return base + suffix


FIELDS: Final = (
    "envelope",
    "body",
    "state",
    "job",
    "attempts",
    "generation",
    "answer",
    "first_at",
    "died_at",
    "since",
    "pieces",
    "kinds",
)
"""Fields of a message's Redis hash, in the order in which ``decode`` takes their values."""


def encode(message: QueuedMessage, *, kinds: str = "") -> dict[Any, Any]:
    """The Redis hash of a newly accepted message.

    Its body lies beside it in pieces of these ``kinds``, a letter of ``json_parts.Kind`` each, unless that is "".
    """
    pieces = {"pieces": len(kinds), "kinds": kinds, "size": len(message.body)}
    body: dict[str, Any] = pieces if kinds else {"body": bytes(message.body)}
    return {
        "envelope": message.envelope(),
        **body,
        # Once more outside the envelope: the store's steps need it without reading JSON.
        "project": message.project_id,
        "state": State.WAITING.value,
        "attempts": 0,
        "generation": 1,
    }


def decode(values: list[bytes | None]) -> StoredMessage | None:
    """The stored message of the ``FIELDS`` values; None when there is none. Raises ``CodecError``.

    Where there are pieces, the value of ``body`` is what they are joined to, None when some are missing.
    """
    envelope, body, state, job, attempts, generation, answer, first_at, died_at, since, pieces, _ = values
    if envelope is None and body is None:
        return None
    try:
        data: dict[str, Any] = orjson.loads(envelope) if envelope is not None else {"v": 1}
        if not 1 <= data["v"] <= CODEC_VERSION:
            raise ValueError(f"codec version {data['v']} is newer than this release's {CODEC_VERSION}")
        if envelope is None or body is None:
            raise ValueError(f"not all of its body's {int(pieces)} pieces are there" if pieces else "incomplete hash")
        return StoredMessage(
            message=QueuedMessage(
                id=data["id"],
                project_id=data["project"],
                sender=data["sender"],
                recipients=tuple(data["recipients"]),
                envelope_from=data["envelope_from"],
                accepted_at=float(data["accepted_at"]),
                message_id=data["message_id"],
                subject=data["subject"],
                idempotency_key=data["idempotency_key"],
                body=body,
            ),
            state=State((state or b"waiting").decode()),
            job_id=(job or b"").decode(),
            attempts=int(attempts or 0),
            generation=int(generation or 1),
            last_answer=orjson.loads(answer) if answer else None,
            first_at=float(first_at) if first_at else None,
            died_at=float(died_at) if died_at else None,
            since=float(since) if since else None,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise CodecError(f"stored message cannot be read: {error}") from error
