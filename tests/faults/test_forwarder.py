"""The forwarder away, killed and stopped."""

from __future__ import annotations

import os
import signal

from sandbox.processes import wait_until
from sandbox.stack import Stack
from shared.message_store import MessageStore
from tests.faults.conftest import MakeRelay, Settle
from tests.support.load import send_many


def test_a_stopped_forwarder_delays_and_loses_nothing(bench: Stack, books: Settle) -> None:
    stack = bench
    stack.start_ingress()
    subjects = send_many(stack, 200)
    assert stack.queued() == 200
    assert stack.api.sent() == []
    stack.start_forwarder()
    books("Forwarder away", stack, subjects, prefix=f"{stack.queue_name}-")


def test_the_whole_forwarder_killed_with_a_backlog(make_relay: MakeRelay, books: Settle) -> None:
    stack = make_relay(workers=2)
    stack.start_ingress()
    stack.start_forwarder()
    stack.api.fail("latency", seconds=0.3)
    subjects = send_many(stack, 60)
    wait_until(stack.api.sent, timeout=30, what="the first mail")
    for pid in [*stack.forwarder.process.children(), stack.forwarder.process.pid]:
        os.kill(pid, signal.SIGKILL)
    stack.forwarder.process.kill()
    stack.api.clear_faults()
    stack.start_forwarder()
    books("Whole forwarder killed with a backlog", stack, subjects, prefix=f"{stack.queue_name}-")


def test_a_stop_while_the_api_hangs_ends_in_time_and_hands_back(make_relay: MakeRelay, books: Settle) -> None:
    """A call that hangs ends by its timeout; what was not begun waits again; the exit code says all is well."""
    stack = make_relay(FORWARD_TIMEOUT="3", FORWARD_CONCURRENCY="4", SHUTDOWN_TIMEOUT="20")
    stack.start_ingress()
    stack.api.fail("hang", seconds=300)
    subjects = send_many(stack, 30)
    stack.start_forwarder()
    with stack.redis.client() as client:
        store = MessageStore(client, stack.queue_name)
        wait_until(lambda: store.depth().sending, timeout=30, what="messages in hand")
        assert stack.forwarder.process.stop(timeout=25) == 0, "by itself, before the platform would kill it"
        depth = store.depth()
        assert (depth.sending, depth.undelivered) == (0, 30), "nothing is left in dead hands"
    stack.api.clear_faults()
    stack.start_forwarder()
    books("Forwarder stopped while the API hangs", stack, subjects, prefix=f"{stack.queue_name}-")


def test_a_stop_while_redis_hangs_ends_in_time(make_relay: MakeRelay, books: Settle) -> None:
    """With the workers killed at SHUTDOWN_TIMEOUT if need be, and nothing waited for after that."""
    stack = make_relay(SHUTDOWN_TIMEOUT="2")
    stack.start_ingress()
    subjects = send_many(stack, 20)
    stack.api.fail("latency", seconds=0.5)
    stack.start_forwarder()
    wait_until(stack.api.sent, timeout=30, what="the first mail")
    stack.redis.process.pause()
    try:
        code = stack.forwarder.process.stop(timeout=9)
        assert code in (0, 1), "by itself: the platform did not have to kill it"
    finally:
        stack.redis.process.resume()
    stack.start_forwarder()
    books("Forwarder stopped while Redis hangs", stack, subjects, prefix=f"{stack.queue_name}-")
