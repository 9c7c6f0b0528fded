"""The PROXY protocol: headers by table, then real connections on both kinds of port, at last HAProxy itself."""

from __future__ import annotations

import ipaddress
import json
import socket
import ssl
import struct
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingress.proxy_protocol import SIGNATURE, V1_LONGEST, V2_LONGEST, ProxyHeaderError, missing, parse
from sandbox.processes import ServerProcess, accepts_connections, free_port, wait_until
from sandbox.stack import Stack
from tests.support.requirements import requires_program
from tests.support.wire import Wire, simple


def v2(source: str, *, command: int = 0x21, family: int | None = None, extra: bytes = b"", length: int = -1) -> bytes:
    address = ipaddress.ip_address(source).packed
    rest = address + address + struct.pack("!HH", 40_000, 465) + extra
    kind = family if family is not None else {4: 0x11, 16: 0x21}[len(address)]
    return SIGNATURE + bytes((command, kind)) + struct.pack("!H", len(rest) if length < 0 else length) + rest


V1 = b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 465\r\n"
TLV = b"\x03\x00\x04\x00\x00\x00\x00"

HEADERS = [
    (V1, "192.0.2.7"),
    (b"PROXY TCP6 2001:db8::7 2001:db8::1 40000 465\r\n", "2001:db8::7"),
    (b"PROXY TCP6 " + b"2001:0db8:0000:0000:0000:0000:0000:0007 " * 2 + b"65535 65535\r\n", "2001:db8::7"),
    (b"PROXY UNKNOWN\r\n", None),
    (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", None),
    (v2("192.0.2.7"), "192.0.2.7"),
    (v2("2001:db8::7"), "2001:db8::7"),
    (v2("192.0.2.7", extra=TLV), "192.0.2.7"),
    (v2("192.0.2.7", command=0x20), None),
    (v2("192.0.2.7", family=0x00), None),
    (SIGNATURE + b"\x20\x00\x00\x00", None),
    (SIGNATURE + b"\x21\x31\x00\xd8" + b"/" * 216, None),
]

MALFORMED = [
    b"EHLO client.example\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 40,
    b"PROXY\r\n" + b"x" * 20,
    b"PROXY TCP4 192.0.2.7 198.51.100.1 40000\r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 465 1\r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 65536\r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 +1 465\r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 040 465\r\n",
    b"PROXY TCP4 192.0.2.256 198.51.100.1 40000 465\r\n",
    b"PROXY TCP4 2001:db8::7 2001:db8::1 40000 465\r\n",
    b"PROXY TCP6 192.0.2.7 198.51.100.1 40000 465\r\n",
    b"PROXY UDP4 192.0.2.7 198.51.100.1 40000 465\r\n",
    b"PROXY TCP4  192.0.2.7 198.51.100.1 40000 465\r\n",
    b"proxy TCP4 192.0.2.7 198.51.100.1 40000 465\r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 465\n" + b"x" * 100,
    b"PROXY TCP4 " + b"1" * 200 + b"\r\n",
    v2("192.0.2.7", command=0x11),
    v2("192.0.2.7", command=0x22),
    v2("192.0.2.7", family=0x12),
    v2("192.0.2.7", family=0x22),
    SIGNATURE + b"\x21\x11\x00\x04\x01\x02\x03\x04",
    v2("192.0.2.7", length=V2_LONGEST + 1),
    v2("192.0.2.7", length=65_535),
]


def read(data: bytes) -> tuple[str | None, bytes]:
    """What a reader that takes exactly ``missing`` bytes a time makes of ``data``, and what it leaves."""
    header, position = bytearray(), 0
    while wanted := missing(header):
        piece = data[position : position + wanted]
        if not piece:
            raise ProxyHeaderError("closed before its end")
        header += piece
        position += len(piece)
    return parse(bytes(header)), data[position:]


@pytest.mark.parametrize(("header", "client"), HEADERS, ids=lambda value: repr(value)[:60])
@pytest.mark.parametrize("behind", [b"", b"\x16\x03\x01ClientHello", b"EHLO x\r\n", b"\r\n", b"PROXY "], ids=repr)
def test_a_header_is_read_and_not_a_byte_more(header: bytes, client: str | None, behind: bytes) -> None:
    assert read(header + behind) == (client, behind)


@pytest.mark.parametrize("data", MALFORMED, ids=lambda value: repr(value)[:60])
def test_what_is_no_header_is_refused_within_bounds(data: bytes) -> None:
    with pytest.raises(ProxyHeaderError):
        read(data)


@settings(deadline=None)
@given(st.binary(max_size=300), st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", SIGNATURE, SIGNATURE + b"\x21\x11"]))
def test_no_bytes_break_the_reader(tail: bytes, begin: bytes) -> None:
    data = begin + tail + b"\0" * (V2_LONGEST + 600)
    try:
        _, left = read(data)
    except ProxyHeaderError:
        return
    assert len(data) - len(left) <= max(V1_LONGEST, 16 + V2_LONGEST)


# Real connections


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    directory = tmp_path_factory.mktemp("proxied")
    with Stack(
        directory,
        PROXY_PROTOCOL="true",
        PROXY_TRUSTED="127.0.0.1, 127.0.1.0/24",
        MAX_CONNECTIONS_PER_IP="3",
        AUTH_ALLOW_LIST="",
        AUTH_THROTTLE_FAILURES="2",
    ) as stack:
        yield stack


def client_context(stack: Stack) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(stack.certificates / "fullchain.pem"))


def hello_bytes(context: ssl.SSLContext) -> tuple[ssl.SSLObject, ssl.MemoryBIO, ssl.MemoryBIO, bytes]:
    """A TLS client over memory, and its ClientHello."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return tls, incoming, outgoing, outgoing.read()


def greeted_over_tls(stack: Stack, first: list[bytes]) -> str:
    """Connect to 465, send ``first`` piece by piece with the ClientHello behind it in the last one; the greeting,
    "" when the relay closes instead."""
    tls, incoming, outgoing, hello = hello_bytes(client_context(stack))
    with socket.create_connection(("127.0.0.1", stack.port_secure), timeout=20) as raw:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in [*first[:-1], first[-1] + hello]:
            raw.sendall(piece)
        done = False
        while True:
            try:
                if not done:
                    tls.do_handshake()
                    done = True
                raw.sendall(outgoing.read())
                return tls.read(200).decode()
            except ssl.SSLWantReadError:
                try:
                    raw.sendall(outgoing.read())
                    received = raw.recv(16_384)
                except ConnectionResetError:
                    received = b""
                if not received:
                    return ""
                incoming.write(received)


@pytest.mark.parametrize("header", [V1, v2("192.0.2.7"), v2("2001:db8::7", extra=TLV)], ids=["v1", "v2", "v2-tlv"])
def test_a_client_hello_in_the_same_segment_is_not_lost(proxied: Stack, header: bytes) -> None:
    for _ in range(10):
        assert greeted_over_tls(proxied, [header]).startswith("220 ")


@pytest.mark.parametrize("cut", [1, 5, 6, 12, 14, 15, 16, 20, 30, 44])
def test_a_header_in_pieces_is_read(proxied: Stack, cut: int) -> None:
    assert greeted_over_tls(proxied, [V1[:cut], V1[cut:]]).startswith("220 ")


def proxied_wire(stack: Stack, header: bytes) -> Wire:
    wire = Wire(stack.port_submission, read_greeting=False)
    wire.send(header)
    wire.greeting = wire.reply()
    return wire


def logged(stack: Stack, event: str) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in stack.ingress.output().splitlines() if line.startswith("{")]
    return [line for line in lines if event in line["event"]]


def test_starttls_login_and_mail_through_a_proxy_are_the_clients(proxied: Stack) -> None:
    with proxied_wire(proxied, b"PROXY TCP4 203.0.113.9 198.51.100.1 40000 587\r\n") as wire:
        assert wire.greeting.startswith("220 ")
        wire.start_tls(client_context(proxied))
        assert wire.login().startswith("235")
        assert wire.message(simple(subject="proxied")).startswith("250")
    wait_until(lambda: proxied.api.sent(), timeout=30, what="the mail")
    assert logged(proxied, "Authenticated")[-1]["peer"] == "203.0.113.9"
    assert logged(proxied, "Email accepted")[-1]["peer"] == "203.0.113.9"


def test_limits_count_the_client_and_not_the_proxy(proxied: Stack) -> None:
    with ExitStack() as open_:
        for _ in range(3):
            assert open_.enter_context(
                proxied_wire(proxied, b"PROXY TCP6 2001:db8:1:2::7 ::1 1 2\r\n")
            ).greeting.startswith("220")
        # One IPv6 client has a whole /64: another address of it is the same client, the next network is not.
        neighbour = open_.enter_context(proxied_wire(proxied, b"PROXY TCP6 2001:db8:1:2:ffff::8 ::1 1 2\r\n"))
        assert neighbour.greeting.startswith("421 4.3.2")
        other = open_.enter_context(proxied_wire(proxied, b"PROXY TCP6 2001:db8:1:3::7 ::1 1 2\r\n"))
        assert other.greeting.startswith("220")
        # On the port with implicit TLS nobody past the limit gets a handshake.
        assert greeted_over_tls(proxied, [v2("2001:db8:1:2::9")]) == ""


def test_failures_count_for_the_client(proxied: Stack) -> None:
    def guess(client: str, secret: str) -> str:
        with proxied_wire(proxied, f"PROXY TCP4 {client} 198.51.100.1 1 2\r\n".encode()) as wire:
            wire.start_tls(client_context(proxied))
            return wire.login(secret)[:3]

    assert [guess("203.0.113.50", f"sk_guess_{n}_of_many") for n in range(3)] == ["535", "535", "421"]
    assert guess("203.0.113.51", "sk_another_guess_of_many") == "535"


@pytest.mark.parametrize("data", MALFORMED[:10] + MALFORMED[16:], ids=lambda value: repr(value)[:60])
def test_a_malformed_header_closes_the_connection_without_a_word(proxied: Stack, data: bytes) -> None:
    for port in (proxied.port_submission, proxied.port_secure):
        with socket.create_connection(("127.0.0.1", port), timeout=20) as raw:
            raw.sendall(data)
            # Closed with bytes unread is a reset, and it may come before we have said that we are done.
            with suppress(OSError):
                raw.shutdown(socket.SHUT_WR)
            with suppress(ConnectionResetError):
                assert raw.recv(100) == b""


def test_a_header_that_does_not_come_is_not_waited_for(proxied: Stack) -> None:
    with socket.create_connection(("127.0.0.1", proxied.port_submission), timeout=60) as raw:
        raw.sendall(b"PROXY TCP4 ")
        assert raw.recv(100) == b""


def test_only_trusted_networks_may_speak_for_others(proxied: Stack) -> None:
    with closing(socket.socket()) as raw:
        raw.settimeout(20)
        raw.bind(("127.0.2.1", 0))
        raw.connect(("127.0.0.1", proxied.port_submission))
        with suppress(ConnectionResetError, BrokenPipeError):
            raw.sendall(V1)
            assert raw.recv(100) == b""
    refusal = "Connection refused: 127.0.2.1 is not in PROXY_TRUSTED"
    wait_until(lambda: logged(proxied, refusal), timeout=20, what=refusal)
    with closing(socket.socket()) as raw:
        raw.settimeout(20)
        raw.bind(("127.0.1.9", 0))
        raw.connect(("127.0.0.1", proxied.port_submission))
        raw.sendall(V1)
        assert raw.recv(100).startswith(b"220 ")


def test_a_proxys_own_health_check_is_the_proxy_itself(proxied: Stack) -> None:
    with proxied_wire(proxied, SIGNATURE + b"\x20\x00\x00\x00") as wire:
        assert wire.greeting.startswith("220 ")


HAPROXY = """
global
  maxconn 100
defaults
  mode tcp
  timeout connect 10s
  timeout client 60s
  timeout server 60s
listen submission
  bind 127.0.0.1:{port_submission}
  server relay 127.0.0.1:{relay_submission} {send} check inter 500ms
listen secure
  bind 127.0.0.1:{port_secure}
  server relay 127.0.0.1:{relay_secure} {send}
"""


@pytest.mark.extra
@pytest.mark.parametrize("send", ["send-proxy", "send-proxy-v2"])
def test_haproxy_in_front(proxied: Stack, tmp_path: Path, send: str) -> None:
    program = requires_program("haproxy")
    ports = {"port_submission": free_port(), "port_secure": free_port()}
    config = tmp_path / "haproxy.cfg"
    relay = {"relay_submission": proxied.port_submission, "relay_secure": proxied.port_secure}
    config.write_text(HAPROXY.format(send=send, **ports, **relay))
    haproxy = ServerProcess([program, "-db", "-f", str(config)], log=tmp_path / "haproxy.log")
    haproxy.start()
    try:
        haproxy.wait_ready(lambda: accepts_connections(ports["port_secure"]))
        context = client_context(proxied)
        with Wire(ports["port_submission"]) as wire:
            wire.start_tls(context)
            assert wire.login().startswith("235")
        for _ in range(20):
            raw = socket.create_connection(("127.0.0.1", ports["port_secure"]), timeout=20)
            with context.wrap_socket(raw, server_hostname="localhost") as secure:
                assert secure.recv(100).startswith(b"220 ")
    finally:
        haproxy.stop()
    assert subprocess.run([program, "-c", "-f", str(config)], capture_output=True, check=False).returncode == 0
