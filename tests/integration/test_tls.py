"""TLS on both ports: every handshake of many succeeds, and a renewed certificate is served without a restart."""

from __future__ import annotations

import smtplib
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sandbox.processes import wait_until
from sandbox.stack import Stack, make_certificate


def served(stack: Stack, *, implicit: bool) -> bytes:
    """The certificate that a new connection gets, in DER."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if implicit:
        raw = socket.create_connection(("127.0.0.1", stack.port_secure), timeout=20)
        with context.wrap_socket(raw) as secure:
            assert secure.recv(100).startswith(b"220 ")
            return secure.getpeercert(binary_form=True) or b""
    with smtplib.SMTP("localhost", stack.port_submission, timeout=20) as client:
        client.starttls(context=context)
        assert isinstance(client.sock, ssl.SSLSocket)
        return client.sock.getpeercert(binary_form=True) or b""


@pytest.mark.parametrize("implicit", [True, False])
def test_many_handshakes_at_once_all_succeed(relay: Stack, implicit: bool) -> None:
    with ThreadPoolExecutor(8) as threads:
        certificates = list(threads.map(lambda _: served(relay, implicit=implicit), range(80)))
    assert len(certificates) == 80
    assert len(set(certificates)) == 1


@pytest.mark.parametrize("version", ["TLSv1", "TLSv1_1"])
def test_old_tls_is_refused(relay: Stack, version: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLS"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    with socket.create_connection(("127.0.0.1", relay.port_secure), timeout=20) as raw, pytest.raises(ssl.SSLError):
        context.wrap_socket(raw)


def test_a_renewed_certificate_is_served_and_a_broken_one_is_not(relay: Stack) -> None:
    before = served(relay, implicit=True)
    (relay.certificates / "fullchain.pem").write_bytes(b"broken")
    wait_until(lambda: "the old one stays in service" in relay.ingress.output(), timeout=30, what="the refusal")
    assert served(relay, implicit=True) == served(relay, implicit=False) == before
    make_certificate(relay.certificates, "localhost", "renewed.example")
    wait_until(lambda: served(relay, implicit=True) != before, timeout=30, what="the new certificate on 465")
    assert served(relay, implicit=False) == served(relay, implicit=True)
    wait_until(lambda: "Certificate renewed: " in relay.ingress.output(), timeout=30, what="the line in the log")
    assert "renewed.example" in relay.ingress.output()
    if (maps := Path(f"/proc/{relay.ingress.process.pid}/maps")).exists():
        # What reads certificates would stay in memory for good.
        assert "cryptography" not in maps.read_text("utf-8")
