"""Real servers for tests: begun once a session and only where a test asks for them, stopped at its end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.redis_server import RedisServer
from sandbox.stack import Stack


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def empty_redis(redis_server: RedisServer) -> RedisServer:
    redis_server.client().flushall()
    return redis_server


@pytest.fixture(scope="module")
def relay_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A full relay with TLS, shared by a module's tests."""
    with Stack(tmp_path_factory.mktemp("relay")) as stack:
        yield stack


@pytest.fixture
def relay(relay_stack: Stack) -> Stack:
    """The module's relay with an empty inbox, no faults and the demo project as it was made."""
    relay_stack.api.reset()
    return relay_stack


@pytest.fixture(scope="module")
def plain_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A full relay without a certificate."""
    with Stack(tmp_path_factory.mktemp("plain"), tls=False) as stack:
        yield stack


@pytest.fixture
def plain_relay(plain_stack: Stack) -> Stack:
    plain_stack.api.reset()
    return plain_stack


@pytest.fixture
def own_relay(tmp_path: Path) -> Iterator[Stack]:
    """A full relay for one test that breaks it: not started yet."""
    stack = Stack(tmp_path)
    try:
        yield stack
    finally:
        stack.stop()
