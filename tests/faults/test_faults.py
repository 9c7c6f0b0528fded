"""Nothing lost, nothing twice: each fault arranged with real servers, the books balanced with the counting API."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections import Counter

from sandbox.processes import wait_until
from sandbox.stack import DEMO_SECRET, ROOT, Stack
from tests.support.wire import Wire, simple


def send_many(stack: Stack, count: int, *, prefix: str = "m") -> list[str]:
    """``count`` messages over one connection; their subjects. Each got 250."""
    subjects = [f"{prefix}{number}" for number in range(count)]
    with Wire(stack.port_submission) as wire:
        assert wire.login().startswith("235")
        for subject in subjects:
            assert wire.message(simple(subject=subject)).startswith("250")
    return subjects


def assert_balanced(stack: Stack, subjects: list[str], *, within: float = 60) -> None:
    """Every subject arrives exactly once, and nothing is left in the queue."""
    wait_until(
        lambda: set(subjects) <= {mail["body"]["subject"] for mail in stack.api.sent()},
        timeout=within,
        what=f"{len(subjects)} mails",
    )
    wait_until(lambda: not stack.queued(), timeout=within, what="an empty queue")
    counted = Counter(mail["body"]["subject"] for mail in stack.api.sent())
    assert counted == Counter(subjects)
    print(f"sent {len(subjects)}, delivered {len(counted)}, lost 0, twice 0")


def worker_pids(stack: Stack) -> list[int]:
    """The forwarder's worker processes: children of its parent process."""
    found = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(stack.forwarder.process.pid)], capture_output=True, text=True, check=False
    )
    return [int(line) for line in found.stdout.split()]


def plain(stack: Stack) -> Stack:
    """The stack without a certificate: faults are about the queue, not about TLS."""
    for file in stack.certificates.iterdir():
        file.unlink()
    return stack


def test_a_stopped_forwarder_delays_and_loses_nothing(own_relay: Stack) -> None:
    stack = plain(own_relay)
    stack.start_services()
    stack.start_ingress()
    subjects = send_many(stack, 200)
    assert stack.queued() == 200
    assert stack.api.sent() == []
    stack.start_forwarder()
    assert_balanced(stack, subjects)


def test_a_worker_killed_while_the_api_works_sends_nothing_twice(own_relay: Stack) -> None:
    stack = plain(own_relay)
    stack.start()
    stack.api.fail("latency", seconds=3, times=1)
    subjects = send_many(stack, 1)
    # The API has the request and works on it: now the worker dies, before it can hear the answer.
    wait_until(
        lambda: stack.api.counts()["requests"] - stack.api.counts()["preflights"] == 1, timeout=20, what="a call"
    )
    for pid in worker_pids(stack):
        os.kill(pid, signal.SIGKILL)
    assert_balanced(stack, subjects, within=90)
    assert stack.api.counts()["statuses"].get("409", 0) >= 1, "the second try met its own idempotency key"


def test_the_whole_forwarder_killed_with_a_backlog(own_relay: Stack) -> None:
    stack = plain(own_relay)
    stack.start()
    stack.api.fail("latency", seconds=0.3)
    subjects = send_many(stack, 60)
    for pid in [*worker_pids(stack), stack.forwarder.process.pid]:
        os.kill(pid, signal.SIGKILL)
    stack.forwarder.process.kill()
    stack.api.clear_faults()
    stack.start_forwarder()
    assert_balanced(stack, subjects, within=90)


def test_an_api_that_fails_in_every_way_after_250(own_relay: Stack) -> None:
    stack = plain(own_relay)
    stack.start()
    for kind, extra in (
        ("drop", {}),
        ("drop_after", {}),
        ("status", {"status": 502}),
        ("status", {"status": 503}),
        ("status", {"status": 429, "retry_after": 1}),
        ("status", {"status": 408}),
    ):
        stack.api.fail(kind, times=3, **extra)
    subjects = send_many(stack, 30)
    assert_balanced(stack, subjects, within=90)


def test_what_the_api_refuses_for_good_is_a_dead_letter_that_can_be_retried(own_relay: Stack) -> None:
    stack = plain(own_relay)
    stack.start()
    stack.api.fail("status", status=402, message="Billing limit reached", times=1)
    subjects = send_many(stack, 1)
    client = stack.redis.client()
    wait_until(lambda: client.zcard("plunk-smtp:dead"), timeout=30, what="a dead letter")
    environ = {**os.environ, **stack.environ}

    def forwarder(*args: str) -> str:
        command = [sys.executable, "-m", "forwarder", *args]
        return subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    listed = forwarder("failed", "list")
    message_id = listed.split()[0]
    assert "402 Billing limit reached" in listed
    assert '"subject":"m0"' in forwarder("failed", "show", message_id)
    assert "dead letters  1" in forwarder("status", "--verify")
    assert forwarder("failed", "retry", "--all", "--reason", "billing") == "1 queued again\n"
    assert_balanced(stack, subjects)
    assert "dead letters  0" in forwarder("status", "--verify")


def test_redis_killed_and_started_again_keeps_every_250(own_relay: Stack) -> None:
    stack = plain(own_relay)
    stack.start_services()
    stack.start_ingress()
    subjects = send_many(stack, 50)
    stack.redis.kill()
    with Wire(stack.port_submission) as wire:
        wire.login()
        assert wire.message(simple(subject="refused")).startswith("451 4.3.0")
        stack.redis.start()
        assert wire.message(simple(subject="kept")).startswith("250"), "the same connection goes on"
    stack.start_forwarder()
    assert_balanced(stack, [*subjects, "kept"])


def test_a_full_redis_is_452_and_recovers(own_relay: Stack) -> None:
    stack = plain(own_relay)
    stack.start_services()
    stack.start_ingress()
    client = stack.redis.client()
    client.config_set("maxmemory", "1mb")
    with Wire(stack.port_submission) as wire:
        wire.login()
        assert wire.message(simple()).startswith("452 4.3.1")
        client.config_set("maxmemory", "0")
        assert wire.message(simple(subject="m0")).startswith("250")


def test_a_database_outage_is_454_never_535_and_passes(own_relay: Stack) -> None:
    stack = plain(own_relay)
    stack.start()
    stack.postgres.kill()
    with Wire(stack.port_submission) as wire:
        assert wire.login().startswith("454 4.7.0")
        stack.postgres.start()
        assert wire.login().startswith("235")
        assert wire.message(simple(subject="m0")).startswith("250")
    assert_balanced(stack, ["m0"])


def test_an_unreachable_api_at_the_preflight_is_451(own_relay: Stack) -> None:
    own_relay.environ["PREFLIGHT_TIMEOUT"] = "1"
    stack = plain(Stack(own_relay.directory / "short", PREFLIGHT_TIMEOUT="1"))
    try:
        stack.start_services()
        stack.start_ingress()
        stack.api.process.kill()
        with Wire(stack.port_submission) as wire:
            wire.login()
            assert wire.message(simple()).startswith("451 4.4.1")
            stack.api.start()
            assert wire.message(simple(subject="m0")).startswith("250")
        assert stack.queued() == 1
    finally:
        stack.stop()


def test_a_client_that_hangs_up_after_its_last_byte_is_heard_once(own_relay: Stack) -> None:
    stack = plain(own_relay)
    stack.start()
    stack.api.fail("latency", scope="preflight", seconds=1, times=1)
    with Wire(stack.port_submission) as wire:
        wire.login()
        for line in ("MAIL FROM:<a@example.com>", "RCPT TO:<b@x.example>", "DATA"):
            wire.say(line)
        wire.send(simple(subject="m0") + b"\r\n.\r\n")
        wait_until(lambda: stack.api.counts()["preflights"] == 1, timeout=20, what="the preflight")
        wire.socket.shutdown(socket.SHUT_RDWR)
    assert_balanced(stack, ["m0"])


def test_a_stop_finishes_the_transaction_and_sends_421_to_the_idle(own_relay: Stack) -> None:
    stack = plain(own_relay)
    stack.start()
    with Wire(stack.port_submission) as idle, Wire(stack.port_submission) as busy:
        idle.say("EHLO test")
        busy.login()
        for line in ("MAIL FROM:<a@example.com>", "RCPT TO:<b@x.example>", "DATA"):
            busy.say(line)
        stack.ingress.process.signal(signal.SIGTERM)
        assert idle.reply().startswith("421 4.3.2")
        busy.send(simple(subject="m0") + b"\r\n.\r\n")
        assert busy.reply().startswith("250")
        assert busy.reply().startswith("421 4.3.2")
        assert stack.ingress.process.stop() == 0
    assert_balanced(stack, ["m0"])
    assert stack.forwarder.process.stop() == 0


def test_no_secret_is_left_anywhere(own_relay: Stack) -> None:
    stack = plain(own_relay)
    stack.start()
    stack.api.fail("status", status=500, times=2)
    subjects = send_many(stack, 5)
    with Wire(stack.port_submission) as wire:
        wire.login(DEMO_SECRET + "x")
    client = stack.redis.client()
    for key in client.scan_iter():
        dumped = client.dump(key) or b""
        assert DEMO_SECRET.encode() not in dumped + key
    assert_balanced(stack, subjects, within=90)
    stack.redis.stop()
    kept = b"".join(path.read_bytes() for path in (stack.directory / "redis").rglob("*") if path.is_file())
    assert b"m0" in kept, "the append-only file was looked at"
    assert DEMO_SECRET.encode() not in kept
    for role in (stack.ingress, stack.forwarder):
        assert DEMO_SECRET not in role.output()
        assert "Email" in role.output()
