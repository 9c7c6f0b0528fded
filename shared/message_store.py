"""The message store in Redis: the truth about every message between its 250 and the API's 200.

Failure semantics, in one place:

* A message is in exactly one of these: *waiting* (in its project's lane), *being sent* (a job has it in hand), *retry*
  (it waits for its next attempt), *dead* (kept for a person), or gone because it was sent or discarded. Each step from
  one to another is one script, so a crash leaves either the old or the new state, never half of both.
* What ``accept`` returned for, Redis has acknowledged: after fsync, or after ``WAITAOF`` said so.
* RQ jobs are tickets: one says "there is mail", and the worker that gets it takes a fair share from all lanes. A lost
  job therefore loses no mail, and a project's backlog stands in nobody's way. A housekeeper sees to it that there are
  tickets as long as mail can be sent.
* A job keeps what it has in hand by a sign of life, its lease. Without one its messages go back to their lanes; a job
  that wakes up late finds that it no longer holds them and leaves them alone.
* A large body is written in pieces before the step that accepts its message, so that Redis serves others between them.
  That step finds all of them there and makes them stay, or does not store the message; pieces that no step claims, as
  those of an ingress that died, expire. Those of an attachment are its bytes, and are read as their base64.
* No step recreates a message that is gone: a worker that wakes up late cannot bring a sent message back.

Keys, all under the queue's name ``q``; times are Redis's own clock::

    q:message:<id>    hash   see queued_message.FIELDS
    q:body:<id>       list   pieces of a large message's body; expires by itself until the message is accepted
    q:messages        zset   id → time of acceptance; every message not yet sent and not dead
    q:lane:<project>  zset   id → time of acceptance; the project's waiting messages
    q:lanes           zset   project → turn; lanes that have messages and may send
    q:parked          zset   project → time at which a rate-limited project's lane has its turn again
    q:pace:<project>  hash   messages a second of a project near its rate limit; expires by itself
    q:sending         zset   id → time at which a job took it
    q:lease:<job>     string sign of life of the worker that runs a job; expires by itself
    q:retries         zset   id → time its next attempt is due
    q:dead            zset   id → time of death
    q:seen:<digest>   string id of the message with that digest; expires by itself
    q:webhooks        hash   event → JSON of a dead letter's notification, until it is delivered
    q:webhooks:due    zset   event → time of its next delivery
    q:webhooks:tries  hash   event → deliveries tried
    q:housekeeper     string who keeps house; expires by itself
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, cast

import orjson
import redis
from redis.client import Pipeline
from redis.commands.core import Script
from rq import Queue

from shared import store_scripts
from shared.identifiers import random_hex
from shared.json_parts import KINDS, JsonParts, Kind, cut, join
from shared.queued_message import FIELDS, CodecError, QueuedMessage, StoredMessage, decode, encode
from shared.redis_connection import Command

FORWARD_FUNCTION: Final = "forwarder.batch.forward_batch"
"""The function of every RQ job, by name: the ingress never imports the forwarder. It takes no argument."""

JOB_TIMEOUT: Final = 25
"""Seconds an RQ job may take: under Heroku's 30 s between SIGTERM and SIGKILL."""

RESULT_TTL: Final = 30
"""Seconds a finished job is kept. A small positive value is cheaper in RQ than 0, which deletes at once."""

FAILURE_TTL: Final = 3600
"""Seconds a failed job is kept for a person to look at; the messages it had in hand go back to their lanes."""

MOST_TICKETS: Final = 32
"""Jobs in the queue past which no more are added: each takes what there is, so more would find nothing."""

LEASE_SECONDS: Final = 10.0
"""How long a job counts as alive after its worker's last sign; a sign is given three times as often."""

MOST_TAKEN_BYTES: Final = 32 * 1024 * 1024
"""Bodies taken at once: what a worker holds in memory, whatever the messages' size."""

PIECE_BYTES: Final = 1024 * 1024
"""Bodies past this are stored in pieces of this size: how long one write to the append-only file holds up others."""

TINY_BYTES: Final = 16 * 1024
"""Bytes of pieces that go along with a larger one: brackets are not worth a command, and an fsync, of their own."""

PIECES_EXPIRE_SECONDS: Final = 3600
"""Seconds for which pieces wait for the step that accepts their message: far longer than any step takes."""

PACE_SECONDS: Final = 60
"""Seconds after the last sign of a rate limit for which a project keeps its pace."""

MOST_IN_HAND: Final = 50_000
"""Messages being sent that one sweep looks at."""

MOST_WEBHOOKS: Final = 10_000
"""Notifications that wait for delivery, at most; past that the oldest is dropped."""

AUDIT_CHUNK: Final = 250
"""Messages that one step of ``verify`` looks at: Redis is held up for a few milliseconds at a time."""

AUDIT_PATIENCE: Final = 3.0
"""Seconds after which ``verify`` looks again at what seemed wrong, twice: jobs take and renew meanwhile."""


class JsonSerializer:
    """RQ's pickle replaced: a Redis that someone else can write to must not become code execution."""

    @staticmethod
    def dumps(value: Any) -> bytes:
        return orjson.dumps(value)

    @staticmethod
    def loads(data: bytes) -> Any:
        return orjson.loads(data)


class PiecesMissing(redis.RedisError):
    """A body's pieces were not all there when its message was to be accepted: it was not stored."""


class NotDurable(redis.RedisError):
    """Redis took a write, but did not say in time that it is on disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Depth:
    """How full the store is."""

    waiting: int
    sending: int
    retries: int
    dead: int
    oldest_accepted_at: float | None
    """Unix time of acceptance of the oldest message that is neither sent nor dead."""

    @property
    def undelivered(self) -> int:
        return self.waiting + self.sending + self.retries


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """What came of handing messages over."""

    ids: list[str]
    """Each message's id, in order: the first one's where it is a client's repeat; "" where its body's pieces had gone,
    so that it was not stored."""
    undelivered: int
    """Messages in the store now that are neither sent nor dead."""
    tickets: int
    """RQ jobs that wait in the queue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What ``verify`` found."""

    counts: dict[str, int] = field(default_factory=dict)
    """State → messages in it."""
    mistakes: list[str] = field(default_factory=list)
    """One line for each message that is not in exactly one place, or that nothing would ever send."""


class MessageStore:
    """The store over one Redis. Every method may raise ``redis.RedisError``; nothing is half done when it does."""

    def __init__(
        self,
        connection: redis.Redis,
        queue_name: str,
        *,
        bodies: redis.Redis | None = None,
        piece_bytes: int = PIECE_BYTES,
    ) -> None:
        """``bodies``: a client for the pieces of large bodies, where it shall be another one."""
        self.redis = connection
        self._bodies = bodies or connection
        self.piece_bytes = piece_bytes
        self.name = queue_name
        self.queue = Queue(queue_name, connection=connection, serializer=JsonSerializer)
        self.messages_key = f"{queue_name}:messages"
        self.sending_key = f"{queue_name}:sending"
        self.retries_key = f"{queue_name}:retries"
        self.dead_key = f"{queue_name}:dead"
        self.webhooks_key = f"{queue_name}:webhooks"
        self.webhooks_due_key = f"{queue_name}:webhooks:due"
        self._scripts: dict[str, Script] = {}

    def message_key(self, message_id: str) -> str:
        return f"{self.name}:message:{message_id}"

    def body_key(self, message_id: str) -> str:
        return f"{self.name}:body:{message_id}"

    def lane_key(self, project_id: str) -> str:
        return f"{self.name}:lane:{project_id}"

    def seen_key(self, digest: str) -> str:
        return f"{self.name}:seen:{digest}"

    def lease_key(self, job_id: str) -> str:
        return f"{self.name}:lease:{job_id}"

    # Ingress

    def kinds_of(self, body: bytes | JsonParts) -> str:
        """The kinds of the pieces into which a body goes, a letter each; "" when it stays in the message's hash."""
        return "".join(kind for kind, _ in cut(body, self.piece_bytes)) if len(body) > self.piece_bytes else ""

    def stage(self, message_id: str, body: bytes | JsonParts) -> None:
        """Write the pieces of a large body, a command for each but the tiny ones. What fails midway leaves none behind.

        They are sent one after the other without waiting for the answers: Redis reads, writes and acknowledges one
        command at a time all the same, and serves others between two of them. The first comes with its expiry in one
        step, and the others are taken only where it is: none ever stays for good.

        No WAITAOF here: the append-only file holds them before the step that accepts the message, so the one that waits
        for that step's write has waited for theirs.
        """
        key = self.body_key(message_id)
        first, *others = self._commands(body)
        try:
            with self._bodies.pipeline(transaction=False) as pipe:
                pipe.execute_command("MULTI")  # type: ignore[no-untyped-call]
                pipe.rpush(key, *first)
                pipe.expire(key, PIECES_EXPIRE_SECONDS)
                pipe.execute_command("EXEC")  # type: ignore[no-untyped-call]
                for pieces in others:
                    pipe.rpushx(key, *pieces)  # type: ignore[arg-type]
                # Raised below: redis-py would write the command, which is the message, into the error's text.
                for answer in pipe.execute(raise_on_error=False):
                    if isinstance(answer, Exception):
                        raise answer
        except redis.RedisError as error:
            self.unstage([message_id], after=error)
            raise

    def _commands(self, body: bytes | JsonParts) -> list[list[memoryview]]:
        """The pieces of a body by the commands that write them."""
        commands: list[list[memoryview]] = []
        size = 0
        for _, piece in cut(body, self.piece_bytes):
            size += len(piece)
            if not commands or size > self.piece_bytes + TINY_BYTES:
                commands.append([])
                size = len(piece)
            commands[-1].append(piece)
        return commands

    def unstage(self, message_ids: Collection[str], *, after: Exception | None = None) -> None:
        """Let go of pieces whose messages were not stored, as far as Redis answers; they expire anyway.

        ``after``: why, where it was an error: a Redis that did not answer is not asked again.
        """
        if message_ids and not isinstance(after, redis.ConnectionError | redis.TimeoutError):
            with contextlib.suppress(redis.RedisError):
                self._run("UNSTAGE", *message_ids)

    def accept(
        self,
        messages: Sequence[QueuedMessage],
        *,
        staged: Collection[str] | None = None,
        remember_seconds: int = 0,
        with_ticket: bool = True,
        wait_aof: float | None = None,
    ) -> Accepted:
        """Store ``messages`` that are no repeats, and put one RQ job into the queue. One round trip.

        Large bodies must have been staged: ``staged`` has the ids of those that were, or None for this to do it first.
        When this returns, Redis has acknowledged. The rest is said by ``accept_commands`` and ``read_accepted``.
        """
        if staged is None:
            staged = {message.id for message in messages if self.kinds_of(message.body)}
            for message in messages:
                if message.id in staged:
                    self.stage(message.id, message.body)
        commands = self.accept_commands(
            messages, staged=staged, remember_seconds=remember_seconds, with_ticket=with_ticket, wait_aof=wait_aof
        )
        with self.redis.pipeline(transaction=False) as pipe:
            for command in commands:
                pipe.execute_command(*command)  # type: ignore[no-untyped-call]
            answers = pipe.execute(raise_on_error=False)
        return read_accepted(answers, wait_aof=wait_aof)

    def accept_commands(
        self,
        messages: Sequence[QueuedMessage],
        *,
        staged: Collection[str],
        remember_seconds: int = 0,
        with_ticket: bool = True,
        wait_aof: float | None = None,
    ) -> list[Command]:
        """What to say to Redis to store ``messages`` and to queue one RQ job, on one connection, in one round trip.

        ``staged`` has the ids of the messages whose bodies were staged. With ``remember_seconds`` each message's digest
        is kept that long, and a message whose digest is kept already is a repeat; both in one step, so that two
        processes which get the same message at the same instant store it once. With ``wait_aof`` (seconds) Redis is
        also asked whether the write is on its disk.
        """
        args: list[Any] = [self.name, self.queue.key, remember_seconds]
        for message in messages:
            kinds = self.kinds_of(message.body) if message.id in staged else ""
            fields = [part for pair in encode(message, kinds=kinds).items() for part in pair]
            args += [message.id, message.project_id, repr(message.accepted_at), message.digest]
            args += [len(kinds), len(fields), *fields]
        # No transaction: the script is one, and WAITAOF waits for its own connection's writes.
        commands: list[Command] = [("EVAL", store_scripts.ACCEPT, 0, *args)]
        if with_ticket:
            with self.redis.pipeline(transaction=False) as pipe:
                self._enqueue(pipe, 1)
                commands += [command for command, _ in pipe.command_stack]
        if wait_aof is not None:
            commands.append(("WAITAOF", 1, 0, int(wait_aof * 1000)))
        return commands

    def first_id(self, digest: str) -> str | None:
        """The id of the message that was accepted with ``digest`` a short while ago, sent or not."""
        found = cast(bytes | None, self.redis.get(self.seen_key(digest))) if digest else None
        return found.decode() if found else None

    # Forwarder

    def take(self, job_id: str, count: int, *, lease: float = LEASE_SECONDS) -> list[str]:
        """Take at most ``count`` waiting messages in hand for ``job_id``: a fair share of every lane, interleaved."""
        found = self._run("TAKE", job_id, count, MOST_TAKEN_BYTES, int(lease * 1000))
        return [value.decode() for value in cast(list[bytes], found)]

    def load(self, message_ids: Sequence[str], *, with_body: bool = True) -> list[StoredMessage | CodecError | None]:
        """The messages in the given order; None where one is gone, the error where this release cannot read it.

        Without ``with_body`` their bodies, which may be megabytes, are left where they are and read as empty. Bodies in
        pieces are read piece by piece, so that Redis serves others meanwhile.
        """
        body, pieces, kinds = FIELDS.index("body"), FIELDS.index("pieces"), FIELDS.index("kinds")
        fields = FIELDS if with_body else (*FIELDS[:body], *FIELDS[body + 1 :])
        with self.redis.pipeline(transaction=False) as pipe:
            for message_id in message_ids:
                pipe.hmget(self.message_key(message_id), fields)
            found = pipe.execute()
        if not with_body:
            for values in found:
                values.insert(body, None if values[0] is None else b"")
            return [_decoded(values) for values in found]
        for number, (message_id, values) in enumerate(zip(message_ids, found, strict=True)):
            if values[pieces]:
                values[body] = self._joined(message_id, values[pieces], values[kinds])
                if values[body] is None and not self.redis.exists(self.message_key(message_id)):
                    # Sent or discarded meanwhile.
                    found[number] = [None] * len(FIELDS)
        return [_decoded(values) for values in found]

    def _joined(self, message_id: str, count: bytes, kinds: bytes | None) -> bytes | None:
        """The body of so many pieces; None when some are missing, or of a kind that this release does not know.

        ``kinds`` is None where an earlier release wrote them: each then stands for itself.
        """
        if not count.isdigit():
            return None
        letters = kinds.decode("ascii", "replace") if kinds is not None else Kind.JSON * int(count)
        pieces: list[tuple[Kind, bytes]] = []
        for number, letter in enumerate(letters):
            piece = cast(bytes | None, self.redis.lindex(self.body_key(message_id), number))
            if piece is None or letter not in KINDS:
                return None
            pieces.append((Kind(letter), piece))
        return join(pieces) if pieces and len(pieces) == int(count) else None

    def delete(self, message_ids: Iterable[str]) -> None:
        """Forget messages that were sent or discarded, wherever they stand."""
        ids = list(message_ids)
        for start in range(0, len(ids), AUDIT_CHUNK):
            self._run("FORGET", *ids[start : start + AUDIT_CHUNK])

    def give_back(self, message_ids: Sequence[str], *, job_id: str) -> int:
        """Messages that ``job_id`` took and did not begin wait again, in their old order. Returns how many."""
        return cast(int, self._run("GIVE_BACK", job_id, *message_ids)) if message_ids else 0

    def slow_down(self, project_id: str, *, pause: float, rate: float, refused: bool) -> None:
        """Hold a project's lane back for ``pause`` seconds, then to ``rate`` messages a second for a while.

        Never shortens a pause that runs. ``rate`` is what the API's headers tell, which is rounded down, so the
        quickest that was told counts; ``refused``: a call was refused (429), which slows the pace by a fifth once.
        """
        self._run("SLOW", project_id, repr(pause), repr(rate), int(refused), PACE_SECONDS)

    def schedule_retry(
        self,
        message_id: str,
        *,
        job_id: str,
        delay: float,
        attempts: int,
        generation: int,
        answer: dict[str, Any] | None,
    ) -> bool:
        """Move a message to *retry* for ``delay`` seconds. False when it is gone or no longer ``job_id``'s."""
        args = [message_id, job_id, repr(delay), attempts, generation, orjson.dumps(answer)]
        return bool(self._run("RETRY", *args))

    def bury(
        self,
        message_id: str,
        *,
        job_id: str,
        attempts: int,
        generation: int,
        answer: dict[str, Any] | None,
        event: bytes = b"",
        notice: QueuedMessage | None = None,
    ) -> bool:
        """Make a message a dead letter. False when it is gone or no longer ``job_id``'s.

        In the same step ``event`` is kept for delivery to the webhook, and ``notice`` is queued (once a message).
        """
        args: list[Any] = [message_id, job_id, attempts, generation, orjson.dumps(answer), event, MOST_WEBHOOKS]
        if notice is None:
            args.append("")
        else:
            args += [notice.id, notice.project_id, repr(notice.accepted_at)]
            args += [part for pair in encode(notice).items() for part in pair]
        return bool(self._run("BURY", *args))

    def renew_lease(self, job_id: str, *, lease: float = LEASE_SECONDS) -> None:
        """A sign of life of the worker that runs a job."""
        self.redis.set(self.lease_key(job_id), "1", px=int(lease * 1000))

    def end_lease(self, job_id: str) -> None:
        self.redis.delete(self.lease_key(job_id))

    # Housekeeping

    def lead(self, who: str, seconds: float) -> bool:
        """Take or keep the lock of the one that keeps house, for ``seconds``. False when another holds it."""
        return bool(self._run("LEAD", who, int(seconds * 1000)))

    def step_down(self, who: str) -> None:
        self._run("STEP_DOWN", who)

    def promote_due(self, limit: int) -> int:
        """Retries that are due wait again, at most about ``limit``. Returns how many."""
        return cast(int, self._run("PROMOTE", limit))

    def recover(self) -> int:
        """What jobs without a sign of life had in hand waits again. Returns how many."""
        return cast(int, self._run("RECOVER", MOST_IN_HAND))

    def adopt(self) -> int:
        """Messages that an earlier release queued go to their lanes. Returns how many; 0 when there are no more."""
        return cast(int, self._run("ADOPT", AUDIT_CHUNK))

    def add_tickets(self, batch_size: int) -> int:
        """As many RQ jobs as the mail that can be sent now calls for. Returns how many were added."""
        ready = cast(int, self._run("READY", MOST_TICKETS * batch_size))
        if not ready:
            return 0
        missing = min(-(-ready // batch_size), MOST_TICKETS) - self.redis.llen(self.queue.key)
        if missing <= 0:
            return 0
        with self.redis.pipeline(transaction=True) as pipe:
            self._enqueue(pipe, missing)
            pipe.execute()
        return missing

    def take_webhooks(self, limit: int, *, claim: float) -> list[tuple[str, bytes, int]]:
        """Events whose delivery is due: event, body, tries with this one. No other gets them for ``claim`` seconds."""
        found = cast(list[Any], self._run("TAKE_WEBHOOKS", limit, repr(claim)))
        return [(event.decode(), body, tries) for event, body, tries in zip(*[iter(found)] * 3, strict=True)]

    def delay_webhook(self, event: str, delay: float) -> None:
        """An event is delivered again in ``delay`` seconds."""
        self._run("DELAY_WEBHOOK", event, repr(delay))

    def end_webhook(self, event: str) -> None:
        """Forget an event that was delivered, or given up."""
        with self.redis.pipeline(transaction=True) as pipe:
            pipe.zrem(self.webhooks_due_key, event)
            pipe.hdel(self.webhooks_key, event)
            pipe.hdel(f"{self.webhooks_key}:tries", event)
            pipe.execute()

    # Both, and a person's commands

    def depth(self) -> Depth:
        with self.redis.pipeline(transaction=True) as pipe:
            for index in (self.messages_key, self.sending_key, self.retries_key, self.dead_key):
                pipe.zcard(index)
            pipe.zrange(self.messages_key, 0, 0, withscores=True)
            messages, sending, retries, dead, oldest = pipe.execute()
        return Depth(
            waiting=messages - sending - retries,
            sending=sending,
            retries=retries,
            dead=dead,
            oldest_accepted_at=float(oldest[0][1]) if oldest else None,
        )

    def dead_ids(self) -> list[str]:
        """Ids of all dead letters, the oldest first."""
        return [value.decode() for value in cast(list[bytes], self.redis.zrange(self.dead_key, 0, -1))]

    def requeue(self, message_ids: Sequence[str]) -> int:
        """Dead letters wait again, with a lifetime that begins now. Returns how many."""
        count = 0
        for start in range(0, len(message_ids), AUDIT_CHUNK):
            count += cast(int, self._run("REVIVE", *message_ids[start : start + AUDIT_CHUNK]))
        if count:
            self.add_tickets(AUDIT_CHUNK)
        return count

    def verify(self, *, patience: float = AUDIT_PATIENCE) -> Audit:
        """Walk all of the store and prove that each message is in exactly one place, and that something will send it.

        Goes over the messages and over every index, in steps that hold Redis up for a few milliseconds each. What
        seems wrong is looked at again after ``patience`` seconds, twice: a dead worker's messages are not lost, they
        wait for the housekeeper.
        """
        counts: dict[str, int] = {}
        suspects: dict[str, str] = {}
        prefix = self.message_key("").encode()
        stored = self.redis.scan_iter(match=self.message_key("*"), count=1000)
        self._audit((key.removeprefix(prefix) for key in stored), counts, suspects)
        ghosts = [*self._ghosts(), *self._strays()]
        for _ in range(2):
            if suspects:
                time.sleep(patience)
                again: dict[str, str] = {}
                self._audit((name.encode() for name in suspects), {}, again)
                suspects = again
        return Audit(counts=counts, mistakes=sorted(suspects.values()) + ghosts + self._unattended())

    def _ghosts(self) -> Iterator[str]:
        """One line for each entry of an index without a message, and for each that stands in another project's lane."""
        lane = self.lane_key("")
        lanes = [key.decode() for key in self.redis.scan_iter(match=self.lane_key("*"), count=1000)]
        for index in (self.messages_key, self.sending_key, self.retries_key, self.dead_key, *lanes):
            project = index.removeprefix(lane) if index in lanes else ""
            members = (member for member, _ in self.redis.zscan_iter(index, count=1000))
            while chunk := list(islice(members, AUDIT_CHUNK)):
                for line in cast(list[bytes], self._run("GHOSTS", index, project, *chunk)):
                    yield line.decode()

    def _strays(self) -> Iterator[str]:
        """One line for each body that belongs to no message and would stay."""
        prefix = self.body_key("").encode()
        ids = (key.removeprefix(prefix) for key in self.redis.scan_iter(match=self.body_key("*"), count=1000))
        while chunk := list(islice(ids, AUDIT_CHUNK)):
            for line in cast(list[bytes], self._run("STRAYS", *chunk)):
                yield line.decode()

    def _audit(self, ids: Iterable[bytes], counts: dict[str, int], suspects: dict[str, str]) -> None:
        walk: Iterator[bytes] = iter(ids)
        while chunk := list(islice(walk, AUDIT_CHUNK)):
            states, mistakes = cast(tuple[list[Any], list[bytes]], self._run("AUDIT", *chunk))
            for state, count in zip(states[::2], states[1::2], strict=True):
                counts[state.decode()] = counts.get(state.decode(), 0) + count
            for line in mistakes:
                text = line.decode()
                suspects[text.partition(":")[0]] = text

    def _unattended(self) -> list[str]:
        """Mail that could be sent now, while no RQ job is there to take it and no housekeeper to make one."""
        ready = cast(int, self._run("READY", 1))
        with self.redis.pipeline(transaction=False) as pipe:
            pipe.llen(self.queue.key)
            pipe.exists(f"{self.name}:housekeeper")
            tickets, housekeeper = pipe.execute()
        if ready and not tickets and not housekeeper:
            return ["messages wait, but there is neither a job in the queue nor a forwarder that would make one"]
        return []

    def _run(self, name: str, *args: Any) -> Any:
        script = self._scripts.get(name)
        if script is None:
            script = self._scripts[name] = self.redis.register_script(getattr(store_scripts, name))
        return script(args=[self.name, *args])

    def _enqueue(self, pipe: Pipeline, tickets: int) -> None:
        self.queue.enqueue_many(
            [
                Queue.prepare_data(
                    FORWARD_FUNCTION,
                    job_id=random_hex(16),
                    timeout=JOB_TIMEOUT,
                    result_ttl=RESULT_TTL,
                    failure_ttl=FAILURE_TTL,
                    description="",
                )
                for _ in range(tickets)
            ],
            pipeline=pipe,
        )


def read_accepted(answers: Sequence[Any], *, wait_aof: float | None = None) -> Accepted:
    """What ``accept_commands`` brought, from each command's answer (an error as a value).

    Raises ``redis.RedisError`` where the messages were not stored, and ``NotDurable`` where Redis did not say within
    ``wait_aof`` seconds that they are on its disk: they are stored all the same.
    """
    found, synced = answers[0], answers[-1]
    if isinstance(found, Exception):
        # Before Redis 7 what goes wrong inside a script has no type of its own.
        raise redis.OutOfMemoryError("Redis is full") if "OOM command" in str(found) else found
    if wait_aof is not None:
        if isinstance(synced, Exception):
            raise synced
        if synced[0] < 1:
            raise NotDurable("WAITAOF timed out")
    # A ticket that failed on its own is no failure: the housekeeper sees mail without one.
    return Accepted(ids=[value.decode() for value in found[2:]], undelivered=found[0], tickets=found[1])


def _decoded(values: list[bytes | None]) -> StoredMessage | CodecError | None:
    try:
        return decode(values)
    except CodecError as error:
        return error
