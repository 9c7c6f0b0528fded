"""Queued messages made without an SMTP session, for tests that begin at the store."""

from __future__ import annotations

import time
from typing import Any

import orjson

from sandbox.stack import DEMO_PROJECT
from shared.queued_message import QueuedMessage, new_message_id


def queued_message(subject: str = "s", *, text: str = "<p>Text</p>", **fields: Any) -> QueuedMessage:
    """A message as the ingress would hand it over: the API takes it and sends it. ``fields`` are those of its own."""
    recipients = fields.get("recipients", ("b@x.example",))
    body = {"from": "a@example.com", "to": list(recipients), "subject": subject, "body": text}
    usual: dict[str, Any] = {
        "id": new_message_id(),
        "project_id": DEMO_PROJECT,
        "sender": "a@example.com",
        "recipients": recipients,
        "envelope_from": "a@example.com",
        "accepted_at": time.time(),
        "body": orjson.dumps(body),
        "subject": subject,
    }
    return QueuedMessage(**{**usual, **fields})
