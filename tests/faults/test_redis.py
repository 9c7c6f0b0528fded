"""Redis killed, stalled, full and read-only: every 250 is honoured, and what cannot be kept gets a 4xx."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

from forwarder.worker import AGAIN_SECONDS
from sandbox.processes import free_port, wait_until
from sandbox.stack import Stack
from tests.faults.conftest import Settle
from tests.support.load import crowd, send_many
from tests.support.wire import Wire, simple


@pytest.fixture(autouse=True)
def mended(services: Stack) -> Iterator[None]:
    """The next test finds a Redis that works."""
    yield
    services.redis.process.resume()
    if not services.redis.process.is_running():
        services.redis.start()


def test_redis_killed_and_started_again_keeps_every_250(bench: Stack, books: Settle) -> None:
    stack = bench
    stack.start_ingress()
    subjects = send_many(stack, 50)
    stack.redis.kill()
    kept = f"{stack.queue_name}-kept"
    with Wire(stack.port_submission) as wire:
        wire.login()
        assert wire.message(simple(subject="refused")).startswith("451 4.3.0")
        stack.redis.start()
        assert wire.message(simple(subject=kept)).startswith("250"), "the same connection goes on"
    stack.start_forwarder()
    books("Redis killed with a backlog, started from its AOF", stack, [*subjects, kept], prefix=f"{stack.queue_name}-")


def test_redis_killed_after_the_250_of_a_large_message(bench: Stack, books: Settle) -> None:
    stack = bench
    stack.start_ingress()
    subject = f"{stack.queue_name}-large"
    with Wire(stack.port_submission) as wire:
        wire.login()
        assert wire.message(simple(subject=subject, body=("x" * 76 + "\r\n") * 65_000)).startswith("250")
        stack.redis.kill()
    stack.redis.start()
    (body,) = stack.redis.client().keys(f"{stack.queue_name}:body:*")
    assert stack.redis.client().ttl(body) == -1
    stack.start_forwarder()
    books("Redis killed after the 250 of a message of 5 MB", stack, [subject], prefix=subject)
    assert not stack.redis.client().exists(body)


def test_redis_killed_under_load(bench: Stack, books: Settle) -> None:
    stack = bench
    stack.start_ingress()
    stack.start_forwarder()
    with crowd(stack) as ledger:
        for _ in range(2):
            taken = len(ledger.promised)
            wait_until(lambda taken=taken: len(ledger.promised) > taken + 30, timeout=30, what="load")
            met = ledger.events["451 at end of data"]
            stack.redis.kill()
            wait_until(lambda met=met: ledger.events["451 at end of data"] > met, timeout=30, what="a client's 451")
            stack.redis.start()
    books("Redis killed twice under load", stack, ledger.given, prefix=f"{stack.queue_name}-")
    assert stack.forwarder.process.stop() == 0


def test_redis_stalled_under_load_until_its_clients_give_up(bench: Stack, books: Settle) -> None:
    """What it had been told before, it does when it wakes up; the client was told 451 meanwhile and sends again."""
    stack = bench
    stack.start_ingress()
    stack.start_forwarder()
    with crowd(stack) as ledger:
        wait_until(lambda: len(ledger.promised) > 30, timeout=30, what="load")
        stack.redis.process.pause()
        wait_until(lambda: ledger.events["451 at end of data"], timeout=40, what="a client that is told 451")
        stack.redis.process.resume()
        taken = len(ledger.promised)
        wait_until(lambda: len(ledger.promised) > taken + 30, timeout=30, what="load after the stall")
    books("Redis stalled under load, past every timeout", stack, ledger.given, prefix=f"{stack.queue_name}-")


def test_an_outage_is_one_line_of_a_worker_and_a_defect_has_its_traceback(bench: Stack) -> None:
    stack = bench
    queue = f"rq:queue:{stack.queue_name}"

    def told(event: str = "") -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in stack.forwarder.output().splitlines()]
        return [line for line in lines if line["event"].startswith(event)]

    def threads_of_the_waiting_worker() -> int:
        wait_until(lambda: stack.redis.client().info("clients")["blocked_clients"], timeout=30, what="a worker's wait")
        (worker,) = stack.forwarder.process.children()
        return len(os.listdir(f"/proc/{worker}/task"))

    stack.start_forwarder()
    threads = threads_of_the_waiting_worker()
    for _ in range(2):
        before = [len(told("Worker lost Redis")), len(told("Redis answers again"))]
        stack.redis.kill()
        wait_until(lambda b=before: len(told("Worker lost Redis")) > b[0], timeout=30, what="a worker that noticed")
        time.sleep(2 * AGAIN_SECONDS)  # It tries again, and says no more.
        stack.redis.start()
        wait_until(lambda b=before: len(told("Redis answers again")) > b[1], timeout=30, what="the outage's end")
        assert threads_of_the_waiting_worker() == threads, "an outage leaves nothing behind"
    assert [line["error"] for line in told("Worker lost Redis")] == ["ConnectionError"] * 2
    assert not [line for line in told() if "exception" in line or "Traceback" in line["event"]]
    stack.redis.client().set(queue, "no list")
    try:
        wait_until(lambda: told("Worker ended by a defect"), timeout=30, what="a worker that met a defect")
    finally:
        stack.redis.client().delete(queue)
    assert any("WRONGTYPE" in line.get("exception", "") for line in told())


def test_a_full_redis_is_452_and_recovers(bench: Stack, books: Settle) -> None:
    stack = bench
    stack.start_ingress()
    subject = f"{stack.queue_name}-m"
    client = stack.redis.client()
    client.config_set("maxmemory", "1mb")
    try:
        with Wire(stack.port_submission) as wire:
            wire.login()
            assert wire.message(simple()).startswith("452 4.3.1")
            client.config_set("maxmemory", "0")
            assert wire.message(simple(subject=subject)).startswith("250")
    finally:
        client.config_set("maxmemory", "0")
    stack.start_forwarder()
    books("Redis full, then not", stack, [subject], prefix=subject)


def test_a_redis_that_became_a_replica_is_451_and_recovers(bench: Stack, books: Settle) -> None:
    stack = bench
    stack.start_ingress()
    stack.start_forwarder()
    subjects = send_many(stack, 5)
    wait_until(lambda: not stack.queued(), timeout=30, what="an empty store")
    subject = f"{stack.queue_name}-after"
    client = stack.redis.client()
    client.replicaof("127.0.0.1", free_port())
    try:
        with Wire(stack.port_submission) as wire:
            wire.login()
            assert wire.message(simple(subject="refused")).startswith("451 4.3.0")
            client.replicaof("NO", "ONE")
            assert wire.message(simple(subject=subject)).startswith("250")
    finally:
        client.replicaof("NO", "ONE")
    books("Redis read-only (failover), then not", stack, [*subjects, subject], prefix=f"{stack.queue_name}-")
