"""Slow-loris, floods of connections and spent file descriptors, while one normal client is served all the while."""

from __future__ import annotations

import os
import resource
import socket
import ssl
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from ingress.limits import OWN_FILES, SharedLimits, raise_file_limit, room_for_connections
from sandbox.processes import ServerProcess, accepts_connections, free_port, wait_until
from sandbox.stack import ROOT, Stack
from tests.support.stacks import started
from tests.support.wire import Wire, simple

LORISES = 1000
GENEROUS = 10.0
"""Seconds for one mail under attack: a second is meant, and this machine may be busy."""


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A relay that lets one address have as many connections as the attack needs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 8192)), hard))
    with Stack(tmp_path_factory.mktemp("crowded"), MAX_CONNECTIONS_PER_IP="1500", PREFLIGHT_TTL="60") as stack:
        yield stack


def context_of(stack: Stack) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(stack.certificates / "fullchain.pem"))


def one_mail(stack: Stack, context: ssl.SSLContext) -> float:
    """Seconds for a whole connection with TLS, AUTH and one message."""
    began = time.monotonic()
    with Wire(stack.port_secure, tls=context) as wire:
        assert wire.login().startswith("235")
        assert wire.message(simple(subject="served")).startswith("250")
    return time.monotonic() - began


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=30)


def dripping_commands(stack: Stack) -> tuple[socket.socket, bytes]:
    return connect(stack.port_submission), b"N"


def stuck_handshake(stack: Stack) -> tuple[socket.socket, bytes]:
    return connect(stack.port_secure), b"\x16"


def stuck_starttls(stack: Stack) -> tuple[socket.socket, bytes]:
    client = connect(stack.port_submission)
    client.sendall(b"EHLO x\r\nSTARTTLS\r\n")
    return client, b"\x16"


def silent(stack: Stack) -> tuple[socket.socket, bytes]:
    return connect(stack.port_submission), b""


def dripping_data(stack: Stack) -> tuple[socket.socket, bytes]:
    wire = Wire(stack.port_secure, tls=context_of(stack))
    wire.login()
    for line in ("MAIL FROM:<a@example.com>", "RCPT TO:<b@x.example>", "DATA"):
        wire.say(line)
    return wire.socket, b"x"


ATTACKS: list[tuple[Callable[[Stack], tuple[socket.socket, bytes]], int]] = [
    (dripping_commands, 350),
    (stuck_handshake, 300),
    (stuck_starttls, 200),
    (silent, 100),
    (dripping_data, 50),
]


def test_a_normal_client_is_served_beside_a_thousand_slow_ones(crowded: Stack) -> None:
    assert sum(count for _, count in ATTACKS) == LORISES
    context = context_of(crowded)
    alone = statistics.median(one_mail(crowded, context) for _ in range(7))
    with ExitStack() as open_:
        drips: list[tuple[socket.socket, bytes]] = []
        for attack, count in ATTACKS:
            for _ in range(count):
                client, drip = attack(crowded)
                open_.enter_context(client)
                drips.append((client, drip))
        stopped = threading.Event()

        def drip_on() -> None:
            # Each client sends a byte a second or so, for as long as the test lasts.
            while not stopped.wait(0.5):
                for client, drip in drips:
                    with suppress(OSError):
                        client.sendall(drip)

        dripping = threading.Thread(target=drip_on)
        dripping.start()
        try:
            among = [one_mail(crowded, context) for _ in range(15)]
        finally:
            stopped.set()
            dripping.join()
    print(
        f"one mail alone {alone * 1000:.0f} ms, among {LORISES} slow clients {statistics.median(among) * 1000:.0f} ms"
    )
    assert max(among) < GENEROUS
    assert statistics.median(among) < 20 * alone + 0.5
    assert crowded.ingress.process.is_running()


def test_what_the_slow_ones_held_is_given_back(crowded: Stack) -> None:
    files = Path(f"/proc/{crowded.ingress.process.pid}/fd")
    wait_until(lambda: len(list(files.iterdir())) < 150, timeout=60, what="the connections to be forgotten")
    one_mail(crowded, context_of(crowded))


# Limits


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(
        tmp_path_factory.mktemp("limited"),
        MAX_CONNECTIONS="12",
        MAX_CONNECTIONS_PER_IP="4",
        IDLE_TIMEOUT="3",
        DATA_TIMEOUT="4",
    )
    with started(stack, ingress=True):
        yield stack


def test_one_address_has_its_share_and_all_together_theirs(limited: Stack) -> None:
    with ExitStack() as open_:

        def greeting(source: str) -> str:
            return open_.enter_context(Wire(limited.port_submission, source=source)).greeting[:9]

        assert [greeting("127.0.8.1") for _ in range(5)] == ["220 local"] * 4 + ["421 4.3.2"]
        assert [greeting("127.0.8.2") for _ in range(4)] == ["220 local"] * 4
        assert [greeting("127.0.8.3") for _ in range(4)] == ["220 local"] * 4
        assert greeting("127.0.8.4") == "421 4.3.2", "past MAX_CONNECTIONS"
    wait_until(lambda: greeted(limited, "127.0.8.1"), timeout=20, what="room again")


def greeted(stack: Stack, source: str) -> bool:
    with Wire(stack.port_submission, source=source) as wire:
        return wire.greeting.startswith("220")


def test_handshakes_that_never_end_count_too(limited: Stack) -> None:
    with ExitStack() as open_:
        for _ in range(5):
            stuck = open_.enter_context(socket.socket())
            stuck.bind(("127.0.9.1", 0))
            stuck.connect(("127.0.0.1", limited.port_secure))
            stuck.sendall(b"\x16\x03\x01")
        # The fifth is one too many: it gets no handshake, and no word, since there is no channel for one.
        wait_until(lambda: "none: too many connections" in limited.ingress.output(), timeout=20, what="the refusal")
        assert not greeted(limited, "127.0.9.1")
        assert greeted(limited, "127.0.9.2")
    wait_until(lambda: greeted(limited, "127.0.9.1"), timeout=20, what="room again")


def test_who_does_not_authenticate_in_time_goes(limited: Stack) -> None:
    with Wire(limited.port_submission, source="127.0.10.1") as wire:
        began = time.monotonic()
        # Never idle: a command now and then, and yet no client.
        while (answer := wire.say("RSET")).startswith("250"):
            time.sleep(0.3)
            assert time.monotonic() - began < 60
        assert answer.startswith("421 4.4.2")


def test_an_upload_that_drips_is_ended(limited: Stack) -> None:
    with Wire(limited.port_secure, tls=context_of(limited)) as wire:
        wire.login()
        for line in ("MAIL FROM:<a@example.com>", "RCPT TO:<b@x.example>", "DATA"):
            wire.say(line)
        began = time.monotonic()
        with suppress(OSError):
            while time.monotonic() - began < 60:
                wire.send(b"x")
                time.sleep(0.2)
        with suppress(OSError):
            assert wire.reply().startswith("421 4.4.2")
        assert time.monotonic() - began < 50


def test_ipv6_is_counted_by_64() -> None:
    limits = SharedLimits(max_connections=100, max_connections_per_ip=2, max_bytes=1)
    slots = [limits.enter(f"2001:db8::{n}") for n in range(3)]
    assert [slot.is_free for slot in slots] == [True, True, False]
    assert limits.enter("2001:db8:0:1::1").is_free
    for slot in slots:
        slot.release()
        slot.release()
    assert limits.enter("2001:db8::9").is_free, "released once each, however often release is called"


# File descriptors


def test_the_soft_limit_of_open_files_is_raised_to_the_hard_one() -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (300, 900));"
        "from ingress.limits import *; raise_file_limit();"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE)[0], room_for_connections())"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said.split() == ["900", str(900 - OWN_FILES)]
    raise_file_limit()
    assert room_for_connections() > 0


@pytest.mark.parametrize("proxied", [False, True], ids=["the loop accepts", "our acceptor accepts"])
def test_spent_file_descriptors_are_survived(crowded: Stack, tmp_path: Path, proxied: bool) -> None:

    ports = {"PORT_SUBMISSION": str(free_port()), "PORT_SECURE": str(free_port())}
    proxy = {"PROXY_PROTOCOL": "true", "PROXY_TRUSTED": "127.0.0.1"} if proxied else {}
    environ = {**os.environ, **crowded.environ, **ports, **proxy, "PYTHONPATH": str(ROOT)}
    # As many as a process needs to start, and no more: connections past that find none.
    limit = 60
    code = f"import resource, runpy; resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}));"
    code += "import sys; sys.argv = ['ingress']; runpy.run_module('ingress', run_name='__main__')"
    process = ServerProcess([sys.executable, "-c", code], log=tmp_path / "ingress.log", environ=environ)
    process.start()
    port = int(ports["PORT_SUBMISSION"])
    try:
        process.wait_ready(lambda: accepts_connections(port))
        with ExitStack() as open_:
            for _ in range(2 * limit):
                with suppress(OSError):
                    open_.enter_context(connect(port))
            time.sleep(1)
            assert process.is_running()
        begins = b"PROXY UNKNOWN\r\n" if proxied else b""

        def serves() -> bool:
            with suppress(OSError), connect(port) as client:
                client.sendall(begins)
                return client.recv(100).startswith(b"220 ")
            return False

        wait_until(serves, timeout=30, what="service again")
        assert "the limit of open files allows" in (tmp_path / "ingress.log").read_text()
    finally:
        process.stop()
