"""Readiness is the real work done once: red when mail could not be taken or forwarded now; metrics that count."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest

from sandbox.processes import free_port, wait_until
from sandbox.stack import Stack
from shared import healthcheck
from tests.support.wire import Wire, simple


@pytest.fixture(scope="module")
def probed_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("probed"), tls=False, probes=True, QUEUE_MAX_MESSAGES="3") as stack:
        yield stack


@pytest.fixture
def probed(probed_stack: Stack) -> Stack:
    probed_stack.api.clear_faults()
    for role in probed_stack.probes:
        wait_until(lambda r=role: probed_stack.probe(r, "/readyz").status_code == 200, timeout=60, what="readiness")
    return probed_stack


def value(stack: Stack, role: str, name: str, **labels: str) -> float:
    """One sample of a role's metrics; 0 when there is none yet."""
    wanted = ",".join(f'{key}="{text}"' for key, text in labels.items())
    pattern = rf"^{re.escape(name + (f'{{{wanted}}}' if wanted else ''))} (\S+)$"
    found = re.search(pattern, stack.probe(role, "/metrics").text, re.M)
    return float(found[1]) if found else 0.0


METRICS = {
    "ingress": [
        "plunk_smtp_replies_total",
        "plunk_smtp_auth_total",
        "plunk_smtp_connections",
        "plunk_smtp_message_bytes_in_flight",
        "plunk_smtp_preflight_seconds",
        "plunk_smtp_accept_seconds",
        "plunk_smtp_queue_commit_seconds",
    ],
    "forwarder": [
        "plunk_smtp_verdicts_total",
        "plunk_smtp_forward_seconds",
        "plunk_smtp_delivery_seconds",
        "plunk_smtp_queue_waiting",
        "plunk_smtp_queue_retries",
        "plunk_smtp_queue_dead",
        "plunk_smtp_queue_oldest_seconds",
    ],
}


def test_metrics_count_replies_verdicts_latencies_connections_and_the_queue(probed: Stack) -> None:
    probed.api.fail("status", scope="preflight", status=402, times=1)
    probed.api.fail("status", status=422, times=1)
    with Wire(probed.port_submission) as wire:
        wire.login()
        assert value(probed, "ingress", "plunk_smtp_connections") == 1
        assert wire.message(simple()).startswith("554")
        assert wire.message(simple()).startswith("250"), "a dead letter to be"
        wait_until(lambda: value(probed, "forwarder", "plunk_smtp_queue_dead") == 1, timeout=30, what="a dead letter")
        assert wire.message(simple()).startswith("250")
        wait_until(
            lambda: value(probed, "forwarder", "plunk_smtp_verdicts_total", verdict="sent") == 1,
            timeout=30,
            what="sent",
        )
        probed.api.fail("status", status=500)
        assert wire.message(simple()).startswith("250")
        wait_until(lambda: value(probed, "forwarder", "plunk_smtp_queue_retries") == 1, timeout=30, what="a retry")
    assert value(probed, "ingress", "plunk_smtp_replies_total", code="250") == 3
    assert value(probed, "ingress", "plunk_smtp_replies_total", code="554") == 1
    assert value(probed, "ingress", "plunk_smtp_auth_total", code="235") == 1
    assert value(probed, "ingress", "plunk_smtp_preflight_seconds_count") == 4
    assert value(probed, "ingress", "plunk_smtp_accept_seconds_count") == 4
    assert value(probed, "ingress", "plunk_smtp_queue_commit_seconds_count") == 3
    assert value(probed, "forwarder", "plunk_smtp_verdicts_total", verdict="dead") == 1
    assert value(probed, "forwarder", "plunk_smtp_verdicts_total", verdict="again") >= 1
    assert value(probed, "forwarder", "plunk_smtp_forward_seconds_count") >= 3
    assert value(probed, "forwarder", "plunk_smtp_delivery_seconds_count") == 1
    assert value(probed, "forwarder", "plunk_smtp_queue_oldest_seconds") > 0
    wait_until(lambda: value(probed, "ingress", "plunk_smtp_connections") == 0, timeout=20, what="the hang-up")
    for role, names in METRICS.items():
        text = probed.probe(role, "/metrics").text
        assert [name for name in names if f"# TYPE {name.removesuffix('_total')}" not in text] == []
        assert "sk_" not in text
        assert "@" not in text, "no address is a label"


def test_a_full_queue_is_452_and_red_until_there_is_room(probed: Stack) -> None:
    probed.api.fail("status", status=500)
    with Wire(probed.port_submission) as wire:
        wire.login()
        wait_until(lambda: wire.message(simple()).startswith("452 4.3.1"), timeout=30, poll=0.2, what="a full queue")
        red = probed.probe("ingress", "/readyz")
        assert (red.status_code, red.json()["queue"]) == (503, "452 4.3.1 The queue is full, try again later")
        assert probed.probe("ingress", "/livez").status_code == 200
        probed.api.clear_faults()
        wait_until(lambda: probed.probe("ingress", "/readyz").status_code == 200, timeout=60, what="room")
        assert wire.message(simple()).startswith("250")


def read_only(stack: Stack) -> Callable[[], None]:
    """As after a fail-over: this Redis is a replica now."""
    client = stack.redis.client()
    client.execute_command("REPLICAOF", "127.0.0.1", "1")
    return lambda: client.execute_command("REPLICAOF", "NO", "ONE")


def down(stack: Stack) -> Callable[[], None]:
    stack.redis.kill()
    return stack.redis.start


def full(stack: Stack) -> Callable[[], None]:
    client = stack.redis.client()
    client.config_set("maxmemory", "1mb")
    return lambda: client.config_set("maxmemory", "0")


def no_replica(stack: Stack) -> Callable[[], None]:
    """Redis refuses writes for want of replicas."""
    client = stack.redis.client()
    client.config_set("min-replicas-to-write", "1")
    return lambda: client.config_set("min-replicas-to-write", "0")


@pytest.mark.parametrize(
    ("trouble", "reply"),
    [
        (down, "451 4.3.0 The queue is not available, try again later"),
        (read_only, "451 4.3.0 The queue is not available, try again later"),
        (no_replica, "451 4.3.0 The queue is not available, try again later"),
        (full, "452 4.3.1 The queue is full, try again later"),
    ],
)
def test_a_redis_that_takes_no_writes_is_red_and_says_what_a_client_hears(
    probed: Stack, trouble: Callable[[Stack], Callable[[], None]], reply: str
) -> None:
    wait_until(lambda: not probed.queued(), timeout=60, what="an empty queue")
    with Wire(probed.port_submission) as wire:
        wire.login()
        mend = trouble(probed)
        try:
            wait_until(lambda: wire.message(simple()) == reply, timeout=20, poll=0.2, what=reply)
            red = probed.probe("ingress", "/readyz")
            assert (red.status_code, red.json()["queue"]) == (503, reply)
            assert probed.probe("ingress", "/livez").text == "ok\n", "alive: a restart would not help"
            red = probed.probe("forwarder", "/readyz")
            assert (red.status_code, red.json()["redis"][:14]) == (503, "takes no write")
        finally:
            mend()
        for role in probed.probes:
            wait_until(lambda r=role: probed.probe(r, "/readyz").status_code == 200, timeout=60, what="readiness")
        wait_until(lambda: wire.message(simple()).startswith("250"), timeout=20, poll=0.2, what="250")


@pytest.mark.parametrize("role", ["ingress", "forwarder"])
def test_other_paths_are_not_found(probed: Stack, role: str) -> None:
    assert probed.probe(role, "/").status_code == 404


def test_a_database_that_is_down_is_red(probed: Stack) -> None:
    probed.postgres.kill()
    try:
        for role in probed.probes:
            red = probed.probe(role, "/readyz")
            assert red.status_code == 503
            assert red.json()["database"] != "ok"
    finally:
        probed.postgres.start()


@pytest.mark.parametrize("role", ["ingress", "forwarder"])
def test_dockers_health_check_says_what_readiness_says(probed: Stack, role: str) -> None:
    environ = {"HEALTH_PORT": str(probed.probes[role])}
    assert healthcheck.check(environ) == ""
    mend = read_only(probed)
    try:
        wait_until(lambda: "ok" in healthcheck.check(environ), timeout=20, poll=0.2, what="what is wrong and what not")
    finally:
        mend()
    wait_until(lambda: healthcheck.check(environ) == "", timeout=60, poll=0.2, what="readiness")


def test_dockers_health_check_is_red_without_a_probe_port() -> None:
    assert healthcheck.check({}) == "HEALTH_PORT is not set: there is nothing to ask"
    assert healthcheck.check({"HEALTH_PORT": str(free_port())}) == "no answer: URLError"
