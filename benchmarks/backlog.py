"""Fills the store with messages in their real format, quickly."""

from __future__ import annotations

import time

from benchmarks import messages
from ingress.message import Limits, parse
from sandbox.stack import DEMO_PROJECT
from shared.message_store import MessageStore
from shared.queued_message import QueuedMessage, new_message_id

GROUP = 100
"""Messages of one step, as the ingress commits them under load."""


def fill(store: MessageStore, count: int, *, size: int = messages.SMALL_BYTES, project_id: str = DEMO_PROJECT) -> None:
    """Queue ``count`` messages by the store's own step, in groups as a busy ingress does."""
    parsed = parse(messages.small(size), recipients=[messages.RECIPIENT], limits=Limits())
    for start in range(0, count, GROUP):
        now = time.time()
        store.accept(
            [
                QueuedMessage(
                    id=new_message_id(),
                    project_id=project_id,
                    sender=parsed.sender,
                    recipients=(messages.RECIPIENT,),
                    envelope_from=messages.SENDER,
                    accepted_at=now,
                    subject=parsed.subject,
                    body=parsed.body,
                )
                for _ in range(min(GROUP, count - start))
            ],
            with_ticket=not start,
        )
