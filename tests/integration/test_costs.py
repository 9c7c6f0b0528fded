"""What a message costs in commands, queries and time on the event loop: bounds that need no clock."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from ingress import acceptance
from ingress.acceptance import INLINE_BYTES, Acceptance
from ingress.backend import Login, Submission
from ingress.handover import HandOver
from ingress.message import Limits, ParsedMessage
from ingress.preflight import Preflight
from sandbox.redis_server import RedisServer
from shared.message_store import MessageStore
from shared.projects import Project, ProjectDirectory
from shared.queued_message import QueuedMessage, new_message_id
from shared.redis_stream import RedisStream

MESSAGES = 100


def message(number: int) -> QueuedMessage:
    return QueuedMessage(
        id=new_message_id(),
        project_id="p",
        sender="a@example.com",
        recipients=("b@x.example",),
        envelope_from="a@example.com",
        accepted_at=float(number),
        body=b"{}",
        digest=f"d{number}",
    )


def commands(redis: RedisServer) -> dict[str, int]:
    with redis.client() as client:
        stats = client.info("commandstats")
    return {name.removeprefix("cmdstat_"): values["calls"] for name, values in stats.items()}  # type: ignore[union-attr]


def spent(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    ignored = {"info", "config|resetstat", "client|setinfo", "hello", "ping", "script|load"}
    return {name: count - before.get(name, 0) for name, count in after.items() if name not in ignored}


def test_a_group_costs_one_round_trip_and_few_commands_a_message(empty_redis: RedisServer) -> None:
    store = MessageStore(empty_redis.client(), "q")
    store.accept([message(-1)])
    before = commands(empty_redis)
    store.accept([message(number) for number in range(MESSAGES)], remember_seconds=60, with_ticket=False)
    used = spent(before, commands(empty_redis))
    assert used.get("eval", 0) + used.get("evalsha", 0) == 1
    # HSET, ZADD twice, GET and SET of the digest; what is done once for the group is little beside it.
    assert sum(used.values()) <= 5 * MESSAGES + 10, used


async def test_messages_that_come_in_one_turn_of_the_loop_are_one_group(empty_redis: RedisServer) -> None:
    store = MessageStore(empty_redis.client(), "q")
    handover = HandOver(
        store, RedisStream(empty_redis.url), batch_size=MESSAGES, queue_max_messages=0, deduplicate_seconds=60
    )
    await handover.put(message(-1))
    before = commands(empty_redis)
    ids = await asyncio.gather(*(handover.put(message(number)) for number in range(MESSAGES)))
    assert len(set(ids)) == MESSAGES
    assert spent(before, commands(empty_redis))["eval"] == 1
    await handover.close()


def test_sending_costs_few_commands_a_message(empty_redis: RedisServer) -> None:
    store = MessageStore(empty_redis.client(), "q")
    # The first call of a script sends it twice: by its digest, then whole.
    store.accept([message(-1)])
    store.delete(store.take("job", 1))
    store.accept([message(number) for number in range(MESSAGES)], remember_seconds=60)
    before = commands(empty_redis)
    ids = store.take("job", MESSAGES)
    assert len(ids) == MESSAGES
    store.load(ids)
    store.delete(ids)
    used = spent(before, commands(empty_redis))
    assert used.get("eval", 0) + used.get("evalsha", 0) <= 2
    assert sum(used.values()) <= 12 * MESSAGES + 20, used


@pytest.mark.parametrize(("size", "on_the_loop"), [(INLINE_BYTES, True), (INLINE_BYTES + 1, False)])
async def test_nothing_long_is_parsed_on_the_event_loop(
    monkeypatch: pytest.MonkeyPatch, size: int, on_the_loop: bool
) -> None:
    threads: list[threading.Thread] = []
    real = acceptance.parse

    def parse(raw: bytes, *, recipients: tuple[str, ...], limits: Limits) -> ParsedMessage:
        threads.append(threading.current_thread())
        return real(raw, recipients=recipients, limits=limits)

    monkeypatch.setattr(acceptance, "parse", parse)
    with ThreadPoolExecutor(1) as parsers, ThreadPoolExecutor(1) as digesters:
        backend = Acceptance(
            directory=Nothing(ProjectDirectory),  # type: ignore[arg-type]
            preflight=Nothing(Preflight),  # type: ignore[arg-type]
            handover=Nothing(HandOver),  # type: ignore[arg-type]
            parsers=parsers,
            digesters=digesters,
            limits=Limits(),
            deduplicate=True,
        )
        head = b"From: a@example.com\r\nSubject: x\r\nMessage-ID: <1@x>\r\n\r\n"
        project = Project(id="p", verified_domains=frozenset({"example.com"}))
        reply = await backend.accept(
            Submission(
                login=Login(project=project, secret="sk_1"),
                envelope_from="a@example.com",
                recipients=("b@x.example",),
                data=head + b"x" * (size - len(head)),
                session="s",
                peer="127.0.0.1",
            )
        )
    assert reply.code == 250
    assert [thread is threading.main_thread() for thread in threads] == [on_the_loop]


class Nothing:
    """A part of the ingress that says yes and takes no time."""

    def __init__(self, kind: type) -> None:
        assert hasattr(kind, "check") or hasattr(kind, "put") or hasattr(kind, "by_secret")

    async def check(self, *, secret: str, sender: str) -> None:
        await asyncio.sleep(0)

    def stage(self, message_id: str, body: bytes) -> None:
        """Nothing is on its way."""

    async def put(self, message: QueuedMessage, staging: None) -> str:
        return message.id
