"""Real servers for tests: begun once a session and only where a test asks for them, stopped at its end."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.processes import wait_until
from sandbox.redis_server import RedisServer
from sandbox.stack import ROOT, Stack
from shared.message_store import MessageStore
from tests.support.books import ROW, Row, table
from tests.support.reports import pytest_make_collect_report, pytest_runtest_makereport  # noqa: F401
from tests.support.stacks import started

# Every run of pytest closes the directory of all runs to others, PostgreSQL's unprivileged user among them: runs of
# different checkouts have one each.
_TEMPORARY = Path(tempfile.gettempdir()) / f"plunk-smtp-{hashlib.sha1(str(ROOT).encode()).hexdigest()[:8]}"
_TEMPORARY.mkdir(exist_ok=True)
os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_TEMPORARY))


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def empty_redis(redis_server: RedisServer) -> RedisServer:
    redis_server.client().flushall()
    return redis_server


@pytest.fixture
def store(empty_redis: RedisServer) -> MessageStore:
    return MessageStore(empty_redis.client(), "q")


@pytest.fixture(scope="session")
def started_services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with started(Stack(tmp_path_factory.mktemp("services"), tls=False)) as stack:
        yield stack


@pytest.fixture(scope="module")
def services(started_services: Stack) -> Stack:
    """Redis, PostgreSQL and the stand-in API, empty for each module; a test that breaks one mends it."""
    started_services.redis.client().flushall()
    started_services.api.reset()
    return started_services


def _emptied(stack: Stack) -> Stack:
    """The stack after all mail of the test before has gone out, its inbox empty."""
    stack.api.clear_faults()
    wait_until(lambda: not stack.queued(), timeout=60, what="an empty queue")
    stack.api.reset()
    return stack


@pytest.fixture(scope="module")
def relay_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A full relay with TLS, shared by a module's tests."""
    with Stack(tmp_path_factory.mktemp("relay")) as stack:
        yield stack


@pytest.fixture
def relay(relay_stack: Stack) -> Stack:
    """The module's relay with an empty inbox, no faults and the demo project as it was made."""
    return _emptied(relay_stack)


@pytest.fixture(scope="module")
def plain_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A full relay without a certificate."""
    with Stack(tmp_path_factory.mktemp("plain"), tls=False) as stack:
        yield stack


@pytest.fixture
def plain_relay(plain_stack: Stack) -> Stack:
    return _emptied(plain_stack)


@pytest.fixture
def own_relay(tmp_path: Path) -> Iterator[Stack]:
    """A full relay for one test that breaks it: not started yet."""
    stack = Stack(tmp_path)
    try:
        yield stack
    finally:
        stack.stop()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table of what came of each fault. Here, since it is this file that the process at the terminal reads."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    rows = [Row(**value) for report in reports for name, value in report.user_properties if name == ROW]
    if rows:
        terminalreporter.section("faults: nothing lost, nothing twice")
        for line in table(rows):
            terminalreporter.line(line)
