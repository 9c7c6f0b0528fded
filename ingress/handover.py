"""The hand-over: the step between an accepted message and its 250, in which Redis takes the message over.

Messages that are ready at the same moment share one step in Redis, one fsync and one RQ job (group commit): while one
step is under way the next group gathers, so a single message never waits for company and a crowd pays for one fsync. A
message's ``put`` returns only after Redis has acknowledged it; with ``appendfsync everysec`` after WAITAOF has said
that it is on disk, which takes up to a second, so there several groups are under way at once.

The body of a large message is written before its step, piece by piece and by a thread of its own: small messages are
committed meanwhile, and Redis holds none of them up for longer than one piece takes.

A step whose answer does not come may have happened. The client hears 451 and sends again; the digest that was written
in the same step then makes its repeat the same message.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Final, cast

import redis

from ingress.replies import Replies, SmtpError
from shared.json_parts import JsonParts
from shared.log import get_logger
from shared.message_store import MOST_TICKETS, MessageStore, PiecesMissing, read_accepted
from shared.metrics import COMMIT_SECONDS
from shared.queued_message import QueuedMessage
from shared.redis_connection import Durability, look_at_durability
from shared.redis_stream import RedisStream, pack

MAX_GROUP_BYTES: Final = 16 * 1024 * 1024
"""Bodies of one transaction, in bytes, once a group has more than one message: a crowd must not wait on a giant."""

STAGED_AT_ONCE: Final = 1
"""Large bodies that are written at once: two would only share the disk that one keeps busy."""

PACKED_AT_ONCE: Final = 64 * 1024
"""Bytes of bodies up to which a step is written out on the event loop; a larger one in a thread."""

ASKED_AT_ONCE: Final = 4
"""Threads for large steps to be written out, and for what is asked of Redis now and then: its durability, the room in
it, the first id of a repeat."""

ROOM_SECONDS: Final = 1.0
"""Seconds for which one look at the queue's depth and Redis's memory serves."""

WAIT_AOF_GROUPS: Final = 8
"""Groups under way at once where each waits for the next fsync of ``everysec``."""

WAIT_AOF_SECONDS: Final = 5.0
"""Longest wait for that fsync: a second, and what a busy disk adds."""

DURABILITY_SECONDS: Final = 60.0
"""Seconds for which one look at Redis's durability serves; after any trouble it is looked at afresh (failover)."""

MEMORY_LIMIT: Final = 0.9
"""Share of maxmemory past which new mail gets 452: the forwarder's bookkeeping needs room to empty a full queue."""

log = get_logger(__name__)


Staging = asyncio.Future[None]
"""A large body on its way to Redis."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """One message that waits for its group."""

    message: QueuedMessage
    done: asyncio.Future[str]
    """Resolves to the id under which the message is queued."""
    is_staged: bool
    """Its body lies in Redis already, in pieces."""

    @property
    def size(self) -> int:
        """Bytes that its step writes, but for some hundred."""
        return 0 if self.is_staged else len(self.message.body)


class HandOver:
    """Puts messages into the store by groups."""

    def __init__(
        self,
        store: MessageStore,
        stream: RedisStream,
        *,
        batch_size: int,
        queue_max_messages: int,
        deduplicate_seconds: int,
        require_durable: bool = False,
    ) -> None:
        self._store = store
        self._stream = stream
        self._batch_size = batch_size
        self._queue_max_messages = queue_max_messages
        self._deduplicate_seconds = deduplicate_seconds
        self._require_durable = require_durable
        self._waiting: deque[Waiting] = deque()
        self._executor = ThreadPoolExecutor(max_workers=ASKED_AT_ONCE, thread_name_prefix="handover")
        self._stagers = ThreadPoolExecutor(max_workers=STAGED_AT_ONCE, thread_name_prefix="stager")
        self._under_way: set[asyncio.Future[None]] = set()
        self._staging: set[Staging] = set()
        self._hung_at = 0.0
        self._durability = Durability()
        self._durable_until = 0.0
        self._room_until = 0.0
        self._undelivered = 0
        self._tickets = 0

    def stage(self, message_id: str, body: bytes | JsonParts) -> Staging | None:
        """Begin to write the body of a large message, so that it is there when ``put`` is called; None for a small one.

        Whoever does not ``put`` the message then must ``forget`` it.
        """
        if not self._store.kinds_of(body):
            return None
        loop = asyncio.get_running_loop()
        staging = loop.run_in_executor(self._stagers, self._stage, message_id, body, time.monotonic())
        self._keep(staging)
        return staging

    def forget(self, message_id: str, staging: Staging | None) -> None:
        """Let go of a body that was staged for a message which is not to be queued."""
        if staging is None:
            return

        def unstage(staged: Staging) -> None:
            # What failed has left nothing behind.
            if staged.exception() is None:
                loop = asyncio.get_running_loop()
                self._keep(loop.run_in_executor(self._stagers, self._store.unstage, [message_id]))

        staging.add_done_callback(unstage)

    async def put(self, message: QueuedMessage, staging: Staging | None = None) -> str:
        """Queue ``message``; returns its id, or the first one's id when it is a client's repeat of a message.

        ``staging``: what ``stage`` returned, where it was called. Raises ``SmtpError``: 451 4.3.0 when Redis cannot
        take it now, 452 4.3.1 when the queue is full.
        """
        staging = staging or self.stage(message.id, message.body)
        if staging is not None:
            try:
                await staging
            except Exception as error:
                self._durable_until = 0.0
                raise queue_refusal(error) from error
        done: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._waiting.append(Waiting(message=message, done=done, is_staged=staging is not None))
        if len(self._waiting) == 1:
            # Those whose preflight was answered with this one's are about to come: they make one group.
            asyncio.get_running_loop().call_soon(self._begin_groups)
        return await done

    def _keep(self, staging: Staging) -> None:
        self._staging.add(staging)
        staging.add_done_callback(self._staging.discard)

    async def first_id(self, digest: str) -> str | None:
        """The id of the message that was queued with this digest a short while ago; None also when Redis is silent."""
        if not digest or not self._deduplicate_seconds:
            return None
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, self._store.first_id, digest)
        except redis.RedisError:
            return None

    def probe(self) -> None:
        """Do the real work once, without a message: look for room and write. Raises what ``put`` would refuse with."""
        try:
            self._look(time.monotonic())
            self._store.redis.set(f"{self._store.name}:probe", "1", ex=60)
        except Exception as error:
            raise queue_refusal(error) from error

    async def close(self) -> None:
        """Wait for the groups under way and what waits behind them."""
        self._begin_groups()
        while self._staging or self._under_way:
            await asyncio.wait(self._staging | self._under_way)
        await self._stream.close()
        self._stagers.shutdown(wait=True)
        self._executor.shutdown(wait=True)

    def _begin_groups(self) -> None:
        at_once = WAIT_AOF_GROUPS if self._durability.needs_wait_aof else 1
        while self._waiting and len(self._under_way) < at_once:
            task = asyncio.create_task(self._commit_group(self._take_group()))
            self._under_way.add(task)
            task.add_done_callback(self._end_group)

    def _end_group(self, task: asyncio.Future[None]) -> None:
        self._under_way.discard(task)
        self._begin_groups()

    async def _commit_group(self, group: list[Waiting]) -> None:
        try:
            ids = await self._commit(group)
        except Exception as error:
            self._durable_until = 0.0
            refusal = queue_refusal(error)
            if isinstance(error, redis.TimeoutError):
                # Those who gathered meanwhile have waited as long: a hanging Redis is not asked again for them.
                group += self._waiting
                self._waiting.clear()
            for waiting in group:
                if not waiting.done.done():
                    waiting.done.set_exception(refusal)
        else:
            for waiting, message_id in zip(group, ids, strict=True):
                if waiting.done.done():
                    continue
                if message_id:
                    waiting.done.set_result(message_id)
                else:
                    waiting.done.set_exception(queue_refusal(PiecesMissing()))

    def _take_group(self) -> list[Waiting]:
        group = [self._waiting.popleft()]
        size = group[0].size
        while self._waiting and len(group) < self._batch_size:
            size += self._waiting[0].size
            if size > MAX_GROUP_BYTES:
                break
            group.append(self._waiting.popleft())
        return group

    def _stage(self, message_id: str, body: bytes | JsonParts, since: float) -> None:
        """Write a large body. Runs in a thread; ``since`` when (monotonic) its message began to wait for it."""
        if since < self._hung_at:
            # It has waited as long as the one that found Redis hanging: Redis is not asked again for it.
            raise redis.TimeoutError("Redis hung")
        try:
            self._look(time.monotonic())
            self._store.stage(message_id, body)
        except redis.TimeoutError:
            self._hung_at = time.monotonic()
            raise

    async def _commit(self, group: Sequence[Waiting]) -> list[str]:
        """One step for ``group``; the id of each, in order, "" where its pieces had gone."""
        started = time.monotonic()
        loop = asyncio.get_running_loop()
        staged = {waiting.message.id for waiting in group if waiting.is_staged}
        try:
            if self._is_to_look(started):
                await loop.run_in_executor(self._executor, self._look, started)
            wait_aof = WAIT_AOF_SECONDS if self._durability.needs_wait_aof else None
            commands = self._store.accept_commands(
                [waiting.message for waiting in group],
                staged=staged,
                remember_seconds=self._deduplicate_seconds,
                with_ticket=self._tickets < MOST_TICKETS,
                wait_aof=wait_aof,
            )
            if sum(waiting.size for waiting in group) <= PACKED_AT_ONCE:
                request = pack(commands)
            else:
                request = await loop.run_in_executor(self._executor, pack, commands)
            accepted = read_accepted(await self._stream.exchange(request, answers=len(commands)), wait_aof=wait_aof)
        except Exception as error:
            if staged:
                await loop.run_in_executor(self._stagers, partial(self._store.unstage, staged, after=error))
            raise
        self._undelivered, self._tickets = accepted.undelivered, accepted.tickets
        COMMIT_SECONDS.observe(time.monotonic() - started)
        return accepted.ids

    def _is_to_look(self, now: float) -> bool:
        """Whether Redis's durability or the room in it is to be looked at before the next step."""
        return now >= self._durable_until or not self._has_room(now)

    def _has_room(self, now: float) -> bool:
        limit = self._queue_max_messages
        return now < self._room_until and not (limit and self._undelivered >= limit)

    def _look(self, now: float) -> None:
        """Runs in a thread. Raises ``SmtpError`` as ``_check_durable`` and ``_check_room`` do."""
        self._check_durable(now)
        self._check_room(now)

    def _check_durable(self, now: float) -> None:
        """Raises ``SmtpError`` 451 under REQUIRE_DURABLE_REDIS when this Redis may lose what it acknowledges."""
        if now >= self._durable_until:
            found = look_at_durability(self._store.redis)
            if found.mistakes and found != self._durability:
                log.error("ACCEPTED MAIL CAN BE LOST: " + "; ".join(found.mistakes))
            self._durability = found
            self._durable_until = now + DURABILITY_SECONDS
        if self._require_durable and self._durability.mistakes:
            self._durable_until = 0.0
            raise Replies.QUEUE_UNAVAILABLE.error(cause="Redis is not durable: " + "; ".join(self._durability.mistakes))

    def _check_room(self, now: float) -> None:
        """Raises ``SmtpError`` 452 when the queue is full; Redis is asked once in ``ROOM_SECONDS`` while there is room.

        Each group that was queued says how many messages there are now, so that several ingresses that fill the queue
        together overstep the limit by a group each at most.
        """
        if self._has_room(now):
            return
        limit = self._queue_max_messages
        self._room_until = 0.0
        self._undelivered = self._store.depth().undelivered
        if limit and self._undelivered >= limit:
            raise Replies.QUEUE_FULL.error(cause=f"{self._undelivered} messages are waiting")
        memory = cast(dict[str, int], self._store.redis.info("memory"))
        most = int(memory.get("maxmemory", 0))
        if most and int(memory["used_memory"]) > most * MEMORY_LIMIT:
            raise Replies.QUEUE_FULL.error(cause="Redis has used more than 90 % of maxmemory")
        # A queue that was full of jobs may have been worked off since the last group.
        self._tickets = 0
        self._room_until = now + ROOM_SECONDS


def queue_refusal(error: Exception) -> SmtpError:
    """The refusal that a failed hand-over calls for. Only the error's type is kept: its text may quote the message."""
    if isinstance(error, SmtpError):
        return error
    reply = Replies.QUEUE_FULL if isinstance(error, redis.OutOfMemoryError) else Replies.QUEUE_UNAVAILABLE
    return reply.error(cause=f"queue: {type(error).__name__}")
