"""Queued messages made without an SMTP session, for tests that begin at the store."""

from __future__ import annotations

import time
from collections.abc import Sequence

import orjson

from sandbox.stack import DEMO_PROJECT
from shared.queued_message import QueuedMessage, new_message_id


def queued_message(
    subject: str,
    *,
    project_id: str = DEMO_PROJECT,
    recipients: Sequence[str] = ("b@x.example",),
    accepted_at: float | None = None,
    digest: str = "",
    text: str = "<p>Text</p>",
) -> QueuedMessage:
    """A message as the ingress would hand it over: the API takes it and sends it."""
    body = {"from": "a@example.com", "to": list(recipients), "subject": subject, "body": text}
    return QueuedMessage(
        id=new_message_id(),
        project_id=project_id,
        sender="a@example.com",
        recipients=tuple(recipients),
        envelope_from="a@example.com",
        accepted_at=time.time() if accepted_at is None else accepted_at,
        body=orjson.dumps(body),
        subject=subject,
        digest=digest,
    )
