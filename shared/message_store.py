"""The message store in Redis: the truth about every message between its 250 and the API's 200.

Failure semantics, in one place:

* A message is in exactly one of these: *waiting* (a live RQ job carries it), *retry* (it waits for its next attempt),
  *dead* (kept for a person), or gone because it was sent or discarded. Each step from one to another is one MULTI or
  one script, so a crash leaves either the old or the new state, never half of both.
* ``accept`` writes the messages and the RQ job that carries their ids in one MULTI. What Redis has acknowledged is
  accepted; with ``appendfsync always`` that is after fsync.
* RQ jobs are carriers only. A lost job loses no mail: ``orphans`` finds messages that no live job carries. A job that
  wakes up late finds that its messages carry another job's id and leaves them alone.
* No step recreates a message that is gone: a worker that wakes up late cannot bring a sent message back.

Keys, all under the queue's name ``q``::

    q:message:<id>  hash   see queued_message.FIELDS
    q:messages      zset   id → Unix time of acceptance; every message not yet sent and not dead
    q:waiting       zset   id → Unix time it was last given to an RQ job
    q:retries       zset   id → Unix time its next attempt is due
    q:dead          zset   id → Unix time of death
    q:pause:<id>    string Unix time until which a project is rate-limited; expires by itself
    q:seen:<digest> string id of the message with that digest; expires by itself
    q:lease:<job>   string sign of life of the worker that runs a job; expires by itself
    q:slots:<id>    string Unix time of the last slot given to a rate-limited project's messages; expires by itself
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import orjson
import redis
from redis.client import Pipeline
from rq import Queue, Retry

from shared.queued_message import FIELDS, QueuedMessage, State, StoredMessage, decode, encode

FORWARD_FUNCTION: Final = "forwarder.batch.forward_batch"
"""The function of every RQ job, by name: the ingress never imports the forwarder. Its one argument: message ids."""

JOB_TIMEOUT: Final = 25
"""Seconds an RQ job may take: under Heroku's 30 s between SIGTERM and SIGKILL."""

RESULT_TTL: Final = 30
"""Seconds a finished job is kept. A small positive value is cheaper in RQ than 0, which deletes at once."""

FAILURE_TTL: Final = 86_400
"""Seconds a failed job is kept for a person to look at; the messages it carried are found by the sweep."""

SETTLE_SECONDS: Final = 10.0
"""Seconds after which a message's job should have left a sign somewhere."""

MAX_JOB_RETRIES: Final = 1000
"""Crash recovery spends RQ's retries; a batch that is run again skips what is gone, so many are harmless."""


class JsonSerializer:
    """RQ's pickle replaced: a Redis that someone else can write to must not become code execution."""

    @staticmethod
    def dumps(value: Any) -> bytes:
        return orjson.dumps(value)

    @staticmethod
    def loads(data: bytes) -> Any:
        return orjson.loads(data)


@dataclass(frozen=True, slots=True, kw_only=True)
class Depth:
    """How full the store is."""

    waiting: int
    retries: int
    dead: int
    oldest_accepted_at: float | None
    """Unix time of acceptance of the oldest message that is neither sent nor dead."""

    @property
    def undelivered(self) -> int:
        return self.waiting + self.retries


# KEYS[1] is the message, KEYS[2..5] are messages, waiting, retries, dead. A message that is gone stays gone, and one
# that was given to another job meanwhile is left to that job.
_ASSIGN: Final = """
local state = redis.call('HGET', KEYS[1], 'state')
if not state or (ARGV[5] ~= '' and state ~= ARGV[5]) then return 0 end
redis.call('HSET', KEYS[1], 'state', 'waiting', 'job', ARGV[2])
redis.call('ZREM', KEYS[4], ARGV[1])
redis.call('ZREM', KEYS[5], ARGV[1])
redis.call('ZADD', KEYS[3], ARGV[3], ARGV[1])
redis.call('ZADD', KEYS[2], 'NX', ARGV[4], ARGV[1])
return 1
"""
_SLOTS: Final = """
local last = math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), tonumber(ARGV[1])) + ARGV[2] * ARGV[3]
redis.call('SET', KEYS[1], string.format('%.6f', last), 'EX', 86400)
return string.format('%.6f', last)
"""
_RETRY: Final = """
if redis.call('HGET', KEYS[1], 'job') ~= ARGV[6] then return 0 end
redis.call('HSET', KEYS[1], 'state', 'retry', 'attempts', ARGV[3], 'generation', ARGV[4], 'answer', ARGV[5])
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('ZREM', KEYS[5], ARGV[1])
redis.call('ZADD', KEYS[4], ARGV[2], ARGV[1])
return 1
"""
_BURY: Final = """
if redis.call('HGET', KEYS[1], 'job') ~= ARGV[6] then return 0 end
redis.call('HSET', KEYS[1], 'state', 'dead', 'attempts', ARGV[3], 'generation', ARGV[4], 'answer', ARGV[5])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('ZREM', KEYS[4], ARGV[1])
redis.call('ZADD', KEYS[5], ARGV[2], ARGV[1])
return 1
"""


PLACES: Final = {
    State.WAITING.value: (True, True, False, False),
    State.RETRY.value: (True, False, True, False),
    State.DEAD.value: (False, False, False, True),
}
"""State → whether its messages stand in messages, waiting, retries and dead."""


def _names(places: tuple[bool, ...]) -> str:
    names = ("messages", "waiting", "retries", "dead")
    return ", ".join(name for name, there in zip(names, places, strict=True) if there) or "no index"


class MessageStore:
    """The store over one Redis. Every method may raise ``redis.RedisError``; nothing is half done when it does."""

    def __init__(self, connection: redis.Redis, queue_name: str) -> None:
        self.redis = connection
        self.name = queue_name
        self.queue = Queue(queue_name, connection=connection, serializer=JsonSerializer)
        self.messages_key = f"{queue_name}:messages"
        self.waiting_key = f"{queue_name}:waiting"
        self.retries_key = f"{queue_name}:retries"
        self.dead_key = f"{queue_name}:dead"
        self._slots = connection.register_script(_SLOTS)
        self._assign = connection.register_script(_ASSIGN)
        self._retry = connection.register_script(_RETRY)
        self._bury = connection.register_script(_BURY)

    def message_key(self, message_id: str) -> str:
        return f"{self.name}:message:{message_id}"

    def pause_key(self, project_id: str) -> str:
        return f"{self.name}:pause:{project_id}"

    def seen_key(self, digest: str) -> str:
        return f"{self.name}:seen:{digest}"

    def lease_key(self, job_id: str) -> str:
        return f"{self.name}:lease:{job_id}"

    # Ingress

    def accept(self, messages: Sequence[QueuedMessage], *, remember_seconds: int = 0) -> str:
        """Store ``messages`` and enqueue one RQ job that carries them, in one MULTI. Returns the job's id.

        When this returns, Redis has acknowledged. With ``remember_seconds`` each message's digest is kept that long.
        """
        now = time.time()
        job_id = uuid.uuid4().hex
        with self.redis.pipeline(transaction=True) as pipe:
            accepted: dict[str, float] = {}
            for message in messages:
                pipe.hset(self.message_key(message.id), mapping=encode(message, job_id=job_id))
                accepted[message.id] = message.accepted_at
                if message.digest and remember_seconds:
                    pipe.set(self.seen_key(message.digest), message.id, ex=remember_seconds)
            pipe.zadd(self.messages_key, accepted)
            pipe.zadd(self.waiting_key, dict.fromkeys(accepted, now))
            self._enqueue(pipe, [(job_id, list(accepted))])
            pipe.execute()
        return job_id

    def seen_many(self, digests: Sequence[str]) -> dict[str, str]:
        """Digest → id of the message that was accepted with it a short while ago, sent or not."""
        if not digests:
            return {}
        values = cast(list[bytes | None], self.redis.mget([self.seen_key(digest) for digest in digests]))
        return {digest: value.decode() for digest, value in zip(digests, values, strict=True) if value}

    # Forwarder

    def load(self, message_ids: Sequence[str]) -> list[StoredMessage | None]:
        """The messages in the given order; None where one is gone. Raises ``CodecError``."""
        with self.redis.pipeline(transaction=False) as pipe:
            for message_id in message_ids:
                pipe.hmget(self.message_key(message_id), FIELDS)
            return [decode(values) for values in pipe.execute()]

    def delete(self, message_ids: Iterable[str]) -> None:
        """Forget messages that were sent or discarded, in one MULTI."""
        ids = list(message_ids)
        if not ids:
            return
        with self.redis.pipeline(transaction=True) as pipe:
            pipe.unlink(*map(self.message_key, ids))
            for index in (self.messages_key, self.waiting_key, self.retries_key, self.dead_key):
                pipe.zrem(index, *ids)
            pipe.execute()

    def schedule_retry(
        self, message_id: str, *, job_id: str, due: float, attempts: int, generation: int, answer: dict[str, Any] | None
    ) -> bool:
        """Move a message to *retry* until Unix time ``due``. False when it is gone or no longer ``job_id``'s."""
        args: list[str | bytes | float] = [message_id, due, attempts, generation, orjson.dumps(answer), job_id]
        return bool(self._retry(keys=self._script_keys(message_id), args=args))

    def bury(
        self,
        message_id: str,
        *,
        job_id: str,
        died_at: float,
        attempts: int,
        generation: int,
        answer: dict[str, Any] | None,
    ) -> bool:
        """Make a message a dead letter. False when it is gone or no longer ``job_id``'s."""
        args: list[str | bytes | float] = [message_id, died_at, attempts, generation, orjson.dumps(answer), job_id]
        return bool(self._bury(keys=self._script_keys(message_id), args=args))

    def promote_due(self, now: float, *, batch_size: int) -> int:
        """Give at most ``batch_size`` messages whose retry is due to a new RQ job. Returns how many.

        Optimistic: when another process takes some of them at the same moment, nothing is done and 0 is returned.
        """
        with self.redis.pipeline(transaction=True) as pipe:
            pipe.watch(self.retries_key)  # type: ignore[no-untyped-call]
            due = cast(list[bytes], pipe.zrangebyscore(self.retries_key, "-inf", now, start=0, num=batch_size))
            ids = [value.decode() for value in due]
            if not ids:
                return 0
            pipe.multi()
            self._give_to_job(pipe, ids)
            try:
                pipe.execute()
            except redis.WatchError:
                return 0
        return len(ids)

    def requeue(self, message_ids: Sequence[str], *, only: State | None = None) -> str | None:
        """Give messages to a new RQ job at once: those in the state ``only``, or all. Returns the job's id."""
        if not message_ids:
            return None
        with self.redis.pipeline(transaction=True) as pipe:
            job_id = self._give_to_job(pipe, list(message_ids), only=only)
            pipe.execute()
        return job_id

    def lease(self, job_id: str, seconds: float) -> None:
        """A sign of life of the worker that runs a job."""
        self.redis.set(self.lease_key(job_id), "1", px=int(seconds * 1000))

    def end_lease(self, job_id: str) -> None:
        self.redis.delete(self.lease_key(job_id))

    def orphans(self, now: float, *, limit: int = 1000) -> list[str]:
        """Ids of at most ``limit`` waiting messages whose job neither waits in the queue nor shows a sign of life.

        Looks only at messages that were given to a job before those of the queue's first job (or ``SETTLE_SECONDS``
        ago, with an empty queue): the queue is first in, first out, so a deep backlog costs nothing.
        """
        before = now - SETTLE_SECONDS
        head = cast(bytes | None, self.redis.lindex(self.queue.key, 0))
        if head is not None and (job := self.queue.fetch_job(head.decode())) is not None and job.args[0]:
            scores = [score for score in self.redis.zmscore(self.waiting_key, job.args[0]) if score is not None]
            before = min([before, *(float(score) for score in scores)])
        found = cast(list[bytes], self.redis.zrangebyscore(self.waiting_key, "-inf", f"({before}", start=0, num=limit))
        ids = [value.decode() for value in found]
        if not ids:
            return []
        with self.redis.pipeline(transaction=False) as pipe:
            for message_id in ids:
                pipe.hget(self.message_key(message_id), "job")
            jobs = [(value or b"").decode() for value in pipe.execute()]
            carriers = sorted(set(jobs))
            for job_id in carriers:
                pipe.exists(self.lease_key(job_id))
                pipe.lpos(self.queue.key, job_id)
            answers = pipe.execute()
        alive = {
            job_id
            for job_id, (leased, position) in zip(carriers, zip(answers[::2], answers[1::2], strict=True), strict=True)
            if leased or position is not None
        }
        return [message_id for message_id, job_id in zip(ids, jobs, strict=True) if job_id not in alive]

    def take_slots(self, project_id: str, count: int, *, not_before: float, pace: float) -> list[float]:
        """``count`` Unix times, ``1 / pace`` seconds apart, after all those that were taken for this project before."""
        last = float(self._slots(keys=[f"{self.name}:slots:{project_id}"], args=[not_before, count, 1 / pace]))
        return [last - (count - 1 - index) / pace for index in range(count)]

    def pause(self, project_id: str, until: float) -> None:
        """Hold a rate-limited project's messages back until Unix time ``until``."""
        lasts_ms = max(1, int((until - time.time()) * 1000))
        self.redis.set(self.pause_key(project_id), repr(until), px=lasts_ms)

    def paused_until(self, project_ids: Sequence[str]) -> list[float | None]:
        """Until when each project is held back (Unix time), None where it is not."""
        if not project_ids:
            return []
        return [float(value) if value else None for value in self.redis.mget(map(self.pause_key, project_ids))]

    def depth(self) -> Depth:
        with self.redis.pipeline(transaction=False) as pipe:
            pipe.zcard(self.waiting_key)
            pipe.zcard(self.retries_key)
            pipe.zcard(self.dead_key)
            pipe.zrange(self.messages_key, 0, 0, withscores=True)
            waiting, retries, dead, oldest = pipe.execute()
        return Depth(
            waiting=waiting, retries=retries, dead=dead, oldest_accepted_at=float(oldest[0][1]) if oldest else None
        )

    def dead_ids(self) -> list[str]:
        """Ids of all dead letters, the oldest first."""
        return [value.decode() for value in cast(list[bytes], self.redis.zrange(self.dead_key, 0, -1))]

    def verify(self) -> list[str]:
        """One line for each stored message that is not in exactly one place; empty when all is well.

        Looks twice at what seems wrong, since a message may move while it is looked at.
        """
        suspects = self._misplaced(self._all_ids())
        return sorted(self._misplaced(list(suspects)).values()) if suspects else []

    def _all_ids(self) -> list[str]:
        prefix = self.message_key("").encode()
        stored = {key.removeprefix(prefix) for key in self.redis.scan_iter(match=self.message_key("*"), count=1000)}
        for index in (self.messages_key, self.waiting_key, self.retries_key, self.dead_key):
            stored.update(cast(list[bytes], self.redis.zrange(index, 0, -1)))
        return [message_id.decode() for message_id in stored]

    def _misplaced(self, message_ids: Sequence[str]) -> dict[str, str]:
        mistakes: dict[str, str] = {}
        with self.redis.pipeline(transaction=True) as pipe:
            for message_id in message_ids:
                pipe.hget(self.message_key(message_id), "state")
                for index in (self.messages_key, self.waiting_key, self.retries_key, self.dead_key):
                    pipe.zscore(index, message_id)
            answers = pipe.execute() if message_ids else []
        for position, message_id in enumerate(message_ids):
            state, *scores = answers[position * 5 : position * 5 + 5]
            places = tuple(score is not None for score in scores)
            expected = PLACES.get(state.decode()) if state else (False,) * 4
            if places != expected:
                shown = state.decode() if state else "gone"
                mistakes[message_id] = f"{message_id}: is {shown}, but stands in {_names(places)}"
        return mistakes

    def _script_keys(self, message_id: str) -> list[str]:
        return [self.message_key(message_id), self.messages_key, self.waiting_key, self.retries_key, self.dead_key]

    def _give_to_job(self, pipe: Pipeline, ids: list[str], *, only: State | None = None) -> str:
        job_id = uuid.uuid4().hex
        now = time.time()
        for message_id in ids:
            args: list[str | float] = [message_id, job_id, now, now, only or ""]
            self._assign(keys=self._script_keys(message_id), args=args, client=pipe)
        self._enqueue(pipe, [(job_id, ids)])
        return job_id

    def _enqueue(self, pipe: Pipeline, jobs: Sequence[tuple[str, list[str]]]) -> None:
        self.queue.enqueue_many(
            [
                Queue.prepare_data(
                    FORWARD_FUNCTION,
                    args=(ids,),
                    job_id=job_id,
                    timeout=JOB_TIMEOUT,
                    result_ttl=RESULT_TTL,
                    failure_ttl=FAILURE_TTL,
                    description="",
                    retry=Retry(max=MAX_JOB_RETRIES, interval=0),
                )
                for job_id, ids in jobs
            ],
            pipeline=pipe,
        )
