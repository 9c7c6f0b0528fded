"""Fills the store with messages in their real format, quickly."""

from __future__ import annotations

import time
from typing import cast

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


def trim(store: MessageStore, count: int) -> None:
    """Bring the store back to its ``count`` oldest messages, and forget what repeats are known by."""
    client = store.redis
    over = client.zcard(store.messages_key) - count
    if over > 0:
        newest = cast(list[bytes], client.zrevrange(store.messages_key, 0, over - 1))
        store.delete(message_id.decode() for message_id in newest)
    seen = list(client.scan_iter(match=f"{store.name}:seen:*", count=10 * GROUP))
    for start in range(0, len(seen), GROUP):
        client.delete(*seen[start : start + GROUP])
