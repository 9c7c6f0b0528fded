"""The hand-over: the step between an accepted message and its 250, in which Redis takes the message over.

Messages that are ready at the same moment share one Redis transaction, one fsync and one RQ job (group commit): while
one transaction is under way the next group gathers, so a single message never waits for company and a crowd pays for
one fsync. A message's ``put`` returns only after Redis has acknowledged it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, cast

import redis

from ingress.replies import Replies, SmtpError
from shared.message_store import MessageStore
from shared.metrics import COMMIT_SECONDS
from shared.queued_message import QueuedMessage

MAX_GROUP_BYTES: Final = 16 * 1024 * 1024
"""Bodies of one transaction, in bytes, once a group has more than one message: a crowd must not wait on a giant."""

ROOM_SECONDS: Final = 1.0
"""Seconds for which one look at the queue's depth and Redis's memory serves."""

MEMORY_LIMIT: Final = 0.9
"""Share of maxmemory past which new mail gets 452: the forwarder's bookkeeping needs room to empty a full queue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """One message that waits for its group."""

    message: QueuedMessage
    done: asyncio.Future[str]
    """Resolves to the id under which the message is queued."""


class HandOver:
    """Puts messages into the store by groups, from one thread that owns one connection."""

    def __init__(
        self, store: MessageStore, *, batch_size: int, queue_max_messages: int, deduplicate_seconds: int
    ) -> None:
        self._store = store
        self._batch_size = batch_size
        self._queue_max_messages = queue_max_messages
        self._deduplicate_seconds = deduplicate_seconds
        self._waiting: deque[Waiting] = deque()
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="handover")
        self._committing: asyncio.Task[None] | None = None
        self._room_until = 0.0

    async def put(self, message: QueuedMessage) -> str:
        """Queue ``message``; returns its id, or the first one's id when it is a client's repeat of a message.

        Raises ``SmtpError``: 451 4.3.0 when Redis cannot take it now, 452 4.3.1 when the queue is full.
        """
        done: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._waiting.append(Waiting(message=message, done=done))
        if self._committing is None or self._committing.done():
            self._committing = asyncio.create_task(self._commit_all())
        return await done

    def probe(self) -> None:
        """Do the real work once, without a message: look for room and write. Raises what ``put`` would refuse with."""
        try:
            self._check_room(time.monotonic())
            self._store.redis.set(f"{self._store.name}:probe", "1", ex=60)
        except Exception as error:
            raise queue_refusal(error) from error

    async def close(self) -> None:
        """Wait for the transaction under way and what waits behind it."""
        if self._committing is not None:
            await asyncio.wait([self._committing])
        self._executor.shutdown(wait=True)

    async def _commit_all(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            group = self._take_group()
            try:
                ids = await loop.run_in_executor(self._executor, self._commit, [w.message for w in group])
            except Exception as error:
                refusal = queue_refusal(error)
                for waiting in group:
                    if not waiting.done.done():
                        waiting.done.set_exception(refusal)
            else:
                for waiting, message_id in zip(group, ids, strict=True):
                    if not waiting.done.done():
                        waiting.done.set_result(message_id)

    def _take_group(self) -> list[Waiting]:
        group = [self._waiting.popleft()]
        size = len(group[0].message.body)
        while self._waiting and len(group) < self._batch_size:
            size += len(self._waiting[0].message.body)
            if size > MAX_GROUP_BYTES:
                break
            group.append(self._waiting.popleft())
        return group

    def _commit(self, messages: Sequence[QueuedMessage]) -> list[str]:
        """One transaction for the new ones among ``messages``; the id of each, in order. Runs in the thread."""
        started = time.monotonic()
        self._check_room(started)
        first_ids: dict[str, str] = {}
        if self._deduplicate_seconds:
            first_ids = self._store.seen_many([m.digest for m in messages if m.digest])
        new: list[QueuedMessage] = []
        ids: list[str] = []
        for message in messages:
            message_id = first_ids.get(message.digest) if message.digest else None
            if message_id is None:
                message_id = message.id
                new.append(message)
                if message.digest and self._deduplicate_seconds:
                    first_ids[message.digest] = message_id
            ids.append(message_id)
        if new:
            self._store.accept(new, remember_seconds=self._deduplicate_seconds)
        COMMIT_SECONDS.observe(time.monotonic() - started)
        return ids

    def _check_room(self, now: float) -> None:
        """Raises ``SmtpError`` 452 when the queue is full; while there is room, looks once in ``ROOM_SECONDS``."""
        if now < self._room_until:
            return
        depth = self._store.depth()
        if self._queue_max_messages and depth.undelivered >= self._queue_max_messages:
            raise Replies.QUEUE_FULL.error(cause=f"{depth.undelivered} messages are waiting")
        memory = cast(dict[str, int], self._store.redis.info("memory"))
        limit = int(memory.get("maxmemory", 0))
        if limit and int(memory["used_memory"]) > limit * MEMORY_LIMIT:
            raise Replies.QUEUE_FULL.error(cause="Redis has used more than 90 % of maxmemory")
        self._room_until = now + ROOM_SECONDS


def queue_refusal(error: Exception) -> SmtpError:
    """The refusal that a failed hand-over calls for. Only the error's type is kept: its text may quote the message."""
    if isinstance(error, SmtpError):
        return error
    reply = Replies.QUEUE_FULL if isinstance(error, redis.OutOfMemoryError) else Replies.QUEUE_UNAVAILABLE
    return reply.error(cause=f"queue: {type(error).__name__}")
