"""Exchanges with a real Redis from the event loop: each gets its own answers, whatever became of the one before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
import redis

from sandbox.processes import free_port
from sandbox.redis_server import RedisServer
from shared import redis_stream
from shared.redis_stream import IDLE_SECONDS, RedisStream, pack

TIMEOUT = 0.5


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as own:
        yield own


@pytest_asyncio.fixture
async def stream(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[RedisStream]:
    # These tests are quicker than what it trusts a connection for.
    monkeypatch.setattr(redis_stream, "TRUSTED_SECONDS", 0)
    own = RedisStream(server.url, timeout=TIMEOUT)
    yield own
    await own.close()


async def say(stream: RedisStream, *commands: tuple[Any, ...]) -> list[Any]:
    return await stream.exchange(pack(commands), answers=len(commands))


async def test_answers_come_in_order_and_an_error_is_one_of_them(stream: RedisStream) -> None:
    first, error, last = await say(stream, ("SET", "a", b"\r\n$3\r\n"), ("INCR", "a"), ("GET", "a"))
    assert first == b"OK"
    assert isinstance(error, redis.ResponseError)
    assert last == b"\r\n$3\r\n"


async def test_one_connection_serves_one_exchange_after_the_other(stream: RedisStream) -> None:
    ids = {(await say(stream, ("CLIENT", "ID")))[0] for _ in range(20)}
    assert len(ids) == 1


async def test_exchanges_at_once_have_a_connection_each_and_their_own_answers(stream: RedisStream) -> None:
    answers = await asyncio.gather(*(say(stream, ("ECHO", str(number)), ("CLIENT", "ID")) for number in range(8)))
    assert [echo for echo, _ in answers] == [str(number).encode() for number in range(8)]
    assert len({number for _, number in answers}) == 8


async def test_a_late_answer_is_not_taken_for_that_of_the_next_exchange(
    server: RedisServer, stream: RedisStream
) -> None:
    server.client().client_pause(10_000, all=False)
    with pytest.raises(redis.TimeoutError):
        await say(stream, ("APPEND", "late", "x"))
    # The late answer is still to come.
    assert await say(stream, ("ECHO", "mine")) == [b"mine"]
    server.client().client_unpause()


async def test_what_is_given_up_half_way_takes_its_connection_with_it(server: RedisServer, stream: RedisStream) -> None:
    server.client().client_pause(10_000, all=False)
    task = asyncio.create_task(say(stream, ("APPEND", "given up", "x")))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    # The late answer is still to come.
    assert await say(stream, ("ECHO", "mine")) == [b"mine"]
    server.client().client_unpause()


async def test_a_connection_that_the_server_closed_is_not_used_again(server: RedisServer, stream: RedisStream) -> None:
    (number,) = await say(stream, ("CLIENT", "ID"))
    server.client().client_kill_filter(_id=str(number))
    assert (await say(stream, ("CLIENT", "ID")))[0] > number


async def test_a_restarted_server_is_met_without_an_error(server: RedisServer, stream: RedisStream) -> None:
    await asyncio.gather(*(say(stream, ("SET", f"kept{number}", "1")) for number in range(3)))
    server.kill()
    server.start()
    assert await say(stream, ("GET", "kept0"), ("GET", "kept2")) == [b"1", b"1"]


async def test_a_connection_that_was_idle_for_long_is_made_anew(
    stream: RedisStream,
) -> None:
    (number,) = await say(stream, ("CLIENT", "ID"))
    connection, used = stream._idle.pop()
    stream._idle.append((connection, used - IDLE_SECONDS))
    assert (await say(stream, ("CLIENT", "ID")))[0] > number


async def test_a_server_that_is_not_there_is_a_connection_error() -> None:
    nobody = RedisStream(f"redis://127.0.0.1:{free_port()}", timeout=TIMEOUT)
    with pytest.raises(redis.ConnectionError):
        await say(nobody, ("PING",))


async def test_user_password_and_database_of_the_url_are_used(server: RedisServer) -> None:
    server.client().acl_setuser("app", enabled=True, passwords=["+secret"], keys=["*"], commands=["+@all"])
    own = RedisStream(server.url.replace("redis://", "redis://app:secret@") + "/3", timeout=TIMEOUT)
    assert await say(own, ("SET", "where", "here")) == [b"OK"]
    await own.close()
    other = RedisStream(server.url, timeout=TIMEOUT)
    assert await say(other, ("SELECT", "3"), ("GET", "where"), ("ACL", "WHOAMI")) == [b"OK", b"here", b"default"]
    await other.close()
    wrong = RedisStream(server.url.replace("redis://", "redis://app:wrong@"), timeout=TIMEOUT)
    with pytest.raises(redis.RedisError) as refused:
        await say(wrong, ("PING",))
    assert "wrong" not in str(refused.value)
