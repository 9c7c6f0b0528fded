"""TLS as testssl.sh would look at it: versions, ciphers, renegotiation, tickets, names, and what --check says."""

from __future__ import annotations

import asyncio
import contextlib
import re
import smtplib
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from ingress.certificates import CertificateError, CertificateStore, choose, covers, make_context, read_acme
from ingress.checks import check_certificate
from sandbox.processes import wait_until
from sandbox.stack import Stack
from shared.settings import Settings, load_settings
from tests.support.certificates import Pair, acme_entry, make_pair, write_acme, write_pem
from tests.support.requirements import requires_program
from tests.support.stacks import started

NAMES = {
    "smtp.one.example": make_pair("smtp.one.example"),
    "mail.two.example": make_pair("mail.two.example", "smtp.two.example", key="rsa"),
    "*.three.example": make_pair("*.three.example"),
}


def entries(certificates: dict[str, Pair]) -> list[dict[str, object]]:
    found = [acme_entry([name], pair) for name, pair in certificates.items()]
    found[1] = acme_entry(["mail.two.example", "smtp.two.example"], certificates["mail.two.example"])
    return found


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A relay with three certificates in acme.json and a fourth that cannot be used."""
    directory = tmp_path_factory.mktemp("tls")
    stack = Stack(directory, tls=False, SMTP_DOMAIN="smtp.one.example")
    stack.certificates.mkdir()
    broken = acme_entry(["broken.example"], (NAMES["smtp.one.example"][0], NAMES["mail.two.example"][1]))
    write_acme(stack.certificates / "acme.json", [*entries(NAMES), broken])
    with started(stack, ingress=True):
        yield stack


def client(**options: object) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    for name, value in options.items():
        setattr(context, name, value)
    return context


def connect(stack: Stack, context: ssl.SSLContext, *, name: str | None = None, starttls: bool = False) -> ssl.SSLSocket:
    """A connection after its handshake; the caller closes it."""
    if not starttls:
        raw = socket.create_connection(("127.0.0.1", stack.port_secure), timeout=20)
        return context.wrap_socket(raw, server_hostname=name)
    talk = smtplib.SMTP("127.0.0.1", stack.port_submission, timeout=20)
    talk.ehlo()
    assert talk.docmd("STARTTLS")[0] == 220
    assert talk.sock is not None
    return context.wrap_socket(talk.sock, server_hostname=name)


# Names

SNI = [
    (None, "smtp.one.example"),
    ("smtp.one.example", "smtp.one.example"),
    ("SMTP.TWO.example", "mail.two.example"),
    ("mail.two.example", "mail.two.example"),
    ("anything.three.example", "*.three.example"),
    ("a.b.three.example", "smtp.one.example"),
    ("three.example", "smtp.one.example"),
    ("broken.example", "smtp.one.example"),
    ("stranger.example", "smtp.one.example"),
]


@pytest.mark.parametrize("starttls", [False, True], ids=["implicit", "starttls"])
@pytest.mark.parametrize(("asked", "served"), SNI, ids=lambda value: str(value))
def test_each_name_gets_its_certificate(tls: Stack, asked: str | None, served: str, starttls: bool) -> None:
    with connect(tls, client(), name=asked, starttls=starttls) as secure:
        assert secure.getpeercert(binary_form=True) == ssl.PEM_cert_to_DER_cert(NAMES[served][0].decode())


def test_a_client_that_verifies_is_content_with_each_name(tls: Stack) -> None:
    for name, pair in (("smtp.two.example", "mail.two.example"), ("x.three.example", "*.three.example")):
        context = ssl.create_default_context(cadata=NAMES[pair][0].decode())
        with connect(tls, context, name=name) as secure:
            assert secure.recv(100).startswith(b"220 smtp.one.example ")


def test_a_broken_certificate_of_another_name_is_told_of_and_harms_nobody(tls: Stack) -> None:
    assert "A certificate of another name cannot be used" in tls.ingress.output()
    assert "broken.example" in tls.ingress.output()


# Versions and ciphers

REFUSED = [
    "AES128-SHA", "AES256-SHA", "AES128-GCM-SHA256", "AES256-GCM-SHA384", "ECDHE-ECDSA-AES128-SHA",
    "ECDHE-ECDSA-AES256-SHA384", "ECDHE-RSA-AES128-SHA", "DHE-RSA-AES128-SHA", "ECDHE-ECDSA-AES128-CCM",
    "AECDH-AES128-SHA", "ADH-AES128-SHA", "PSK-AES128-CBC-SHA", "NULL-SHA256", "CAMELLIA128-SHA",
]  # fmt: skip
TAKEN = ["ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305"]


@pytest.mark.parametrize("cipher", REFUSED)
def test_weak_ciphers_are_refused(tls: Stack, cipher: str) -> None:
    context = client(maximum_version=ssl.TLSVersion.TLSv1_2)
    try:
        context.set_ciphers(f"{cipher}:@SECLEVEL=0")
    except ssl.SSLError:
        pytest.skip(f"this OpenSSL cannot even offer {cipher}")
    for name in ("smtp.one.example", "mail.two.example"):
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            connect(tls, context, name=name)


@pytest.mark.parametrize("cipher", TAKEN)
def test_modern_ciphers_are_taken(tls: Stack, cipher: str) -> None:
    context = client(maximum_version=ssl.TLSVersion.TLSv1_2)
    context.set_ciphers(cipher)
    with connect(tls, context) as secure:
        assert (secure.version(), (secure.cipher() or ("",))[0]) == ("TLSv1.2", cipher)


def test_rsa_and_ec_keys_both_serve_both_versions(tls: Stack) -> None:
    for version, name in (("TLSv1.2", "mail.two.example"), ("TLSv1.3", "mail.two.example"), ("TLSv1.3", None)):
        which = ssl.TLSVersion.TLSv1_2 if version == "TLSv1.2" else ssl.TLSVersion.TLSv1_3
        with connect(tls, client(minimum_version=which, maximum_version=which), name=name) as secure:
            assert secure.version() == version


def test_the_server_chooses_the_cipher(tls: Stack) -> None:
    chosen = set()
    for order in (TAKEN, TAKEN[::-1]):
        context = client(maximum_version=ssl.TLSVersion.TLSv1_2)
        context.set_ciphers(":".join(order))
        with connect(tls, context) as secure:
            chosen.add((secure.cipher() or ("",))[0])
    assert len(chosen) == 1


@pytest.mark.parametrize("version", ["TLSv1", "TLSv1_1"])
@pytest.mark.parametrize("starttls", [False, True], ids=["implicit", "starttls"])
def test_old_versions_are_refused(tls: Stack, version: str, starttls: bool) -> None:
    context = client()
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLS"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        connect(tls, context, starttls=starttls)


def test_no_compression_and_alpn_is_of_no_interest(tls: Stack) -> None:
    context = client()
    context.set_alpn_protocols(["smtp", "h2"])
    with connect(tls, context) as secure:
        assert secure.compression() is None
        assert secure.selected_alpn_protocol() is None
        assert secure.recv(100).startswith(b"220 ")


# Sessions


def handshake(server: ssl.SSLContext, session: ssl.SSLSession | None, context: ssl.SSLContext) -> ssl.SSLObject:
    """One handshake in memory; the client's side."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = server.wrap_bio(to_server, to_client, server_side=True)
    two = context.wrap_bio(to_client, to_server, session=session)
    for _ in range(4):
        for side in (two, one):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    return two


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2])
def test_ticket_keys_do_not_live_for_ever(tmp_path: Path, version: ssl.TLSVersion) -> None:
    write_pem(tmp_path, NAMES["smtp.one.example"])
    store = CertificateStore(load_settings({"CERT_PATH": str(tmp_path)}))
    assert store.context is not None
    context = client(maximum_version=version)
    first = handshake(store.context, None, context)
    assert not first.session_reused
    assert handshake(store.context, first.session, context).session_reused, "a ticket saves a handshake"
    store.renew_keys()
    assert not handshake(store.context, first.session, context).session_reused, "an old key opens nothing any more"


# openssl s_client


def s_client(stack: Stack, *options: str, said: str = "") -> str:
    program = requires_program("openssl")
    where = ["-connect", f"127.0.0.1:{stack.port_secure}"]
    finished = subprocess.run(
        [program, "s_client", *where, *options], input=said, capture_output=True, text=True, check=False, timeout=30
    )
    return finished.stdout + finished.stderr


@pytest.mark.extra
def test_openssl_sees_what_an_auditor_would(tls: Stack) -> None:
    seen = s_client(tls, "-servername", "smtp.one.example", "-tls1_2", "-status")
    assert "Secure Renegotiation IS supported" in seen
    assert "Compression: NONE" in seen
    assert re.search(r"Cipher *: ECDHE-ECDSA-(AES|CHACHA)", seen)
    assert re.search(r"Server Temp Key: (X25519|ECDH)|Negotiated TLS1.3 group", seen)


@pytest.mark.extra
def test_renegotiation_by_the_client_is_refused(tls: Stack) -> None:
    seen = s_client(tls, "-tls1_2", said="R\n")
    assert "RENEGOTIATING" in seen
    assert "no renegotiation" in seen


@pytest.mark.extra
@pytest.mark.parametrize("option", ["-tls1", "-tls1_1"])
def test_openssl_cannot_speak_old_versions(tls: Stack, option: str) -> None:
    seen = s_client(tls, option, "-cipher", "ALL:@SECLEVEL=0")
    assert "Cipher is (NONE)" in seen


# Hot reload of acme.json


def test_a_renewed_acme_json_serves_every_new_certificate(tls: Stack) -> None:
    renewed = {name: make_pair(*names) for name, names in (
        ("smtp.one.example", ["smtp.one.example"]),
        ("mail.two.example", ["mail.two.example", "smtp.two.example"]),
        ("*.three.example", ["*.three.example"]),
    )}  # fmt: skip

    def served(name: str, *, starttls: bool = False) -> bytes:
        with connect(tls, client(), name=name, starttls=starttls) as secure:
            return secure.getpeercert(binary_form=True) or b""

    write_acme(tls.certificates / "acme.json", entries(renewed))
    asked_and_named = {name: name for name in ("smtp.one.example", "mail.two.example")}
    asked_and_named |= {"smtp.two.example": "mail.two.example", "x.three.example": "*.three.example"}
    for asked, name in asked_and_named.items():
        wanted = ssl.PEM_cert_to_DER_cert(renewed[name][0].decode())
        wait_until(lambda: served(asked) == wanted, timeout=30, what=f"the new certificate of {asked}")  # noqa: B023
        assert served(asked, starttls=True) == wanted


async def test_a_broken_acme_json_leaves_the_old_certificates_and_a_good_one_replaces_them(tmp_path: Path) -> None:
    write_acme(tmp_path / "acme.json", entries(NAMES))
    store = CertificateStore(settings_for(tmp_path))
    watching = asyncio.create_task(store.watch(every=0.01))
    before = store.context
    try:
        for broken in (b"{", b"", orjson.dumps({"r": {"Certificates": [acme_entry(["else.example"], GOOD)]}})):
            (tmp_path / "acme.json").write_bytes(broken)
            await asyncio.sleep(0.1)
            assert store.context is before
            assert store.context_for("smtp.two.example") is not None
        write_acme(tmp_path / "acme.json", [acme_entry(["smtp.one.example"], GOOD)])
        async with asyncio.timeout(20):
            while store.context is before:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert store.context_for("smtp.two.example") is None
    finally:
        watching.cancel()


# --check

GOOD = make_pair("smtp.one.example", "*.wild.example")
OTHER = make_pair("other.example")
LOCKED = make_pair("smtp.one.example", passphrase=b"x")

CHECKS = [
    ("good", GOOD, {}, (True, False), "days left"),
    ("covers by wildcard", GOOD, {"SMTP_DOMAIN": "a.wild.example"}, (True, False), "days left"),
    ("two weeks left", make_pair("smtp.one.example", days=13.5), {}, (True, True), "13 days left|14 days left"),
    ("two weeks and a day", make_pair("smtp.one.example", days=15), {}, (True, False), "15 days left"),
    ("expired", make_pair("smtp.one.example", days=-1), {}, (False, False), "-1 days left"),
    ("another name", OTHER, {}, (True, True), "does not cover SMTP_DOMAIN smtp.one.example"),
    ("a wildcard of two labels", GOOD, {"SMTP_DOMAIN": "a.b.wild.example"}, (True, True), "does not cover"),
    ("no SMTP_DOMAIN to compare", OTHER, {"SMTP_DOMAIN": ""}, (True, False), "days left"),
    ("another's key", (GOOD[0], OTHER[1]), {}, (False, False), "key and certificate cannot be used together"),
    ("a key under a passphrase", LOCKED, {}, (False, False), "cannot be used"),
    ("no PEM", (b"junk", b"junk"), {}, (False, False), "cannot be used together"),
    ("RSA", make_pair("smtp.one.example", key="rsa"), {}, (True, False), "days left"),
    ("none", None, {}, (True, True), "mail travels in clear text"),
    ("none, but demanded", None, {"REQUIRE_TLS": "true"}, (False, True), "mail travels in clear text"),
]  # fmt: skip


def settings_for(directory: Path, **environ: str) -> Settings:
    return load_settings({"CERT_PATH": str(directory), "SMTP_DOMAIN": "smtp.one.example", **environ})


@pytest.mark.parametrize(
    ("pair", "environ", "result", "says"), [row[1:] for row in CHECKS], ids=[row[0] for row in CHECKS]
)
def test_check_of_the_certificate(
    tmp_path: Path, pair: Pair | None, environ: dict[str, str], result: tuple[bool, bool], says: str
) -> None:
    if pair is not None:
        write_pem(tmp_path, pair)
    found = check_certificate(settings_for(tmp_path, **environ))
    assert (found.ok, found.is_warning) == result, found.detail
    assert re.search(says, found.detail)
    assert "\n" not in found.detail


def test_half_a_pair_is_told_of(tmp_path: Path) -> None:
    write_pem(tmp_path, GOOD)
    (tmp_path / "privkey.pem").unlink()
    found = check_certificate(settings_for(tmp_path))
    assert (found.ok, "must hold both privkey.pem and fullchain.pem" in found.detail) == (False, True)


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"r": {"Certificates": [{}]}}', b'{"r": 1}', b"\xff"], ids=repr)
def test_what_is_no_acme_json_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "acme.json").write_bytes(content)
    found = check_certificate(settings_for(tmp_path))
    assert (found.ok, found.is_warning) == (True, True) if content == b"[]" else not found.ok
    assert "\n" not in found.detail


def test_a_key_is_never_printed(tmp_path: Path) -> None:
    write_pem(tmp_path, (GOOD[0], OTHER[1]))
    with pytest.raises(CertificateError) as caught:
        CertificateStore(settings_for(tmp_path))
    assert "PRIVATE" not in repr(caught.value) + str(caught.value.__cause__)
    document = {"r": {"Certificates": [acme_entry(["smtp.one.example"], GOOD)]}}
    (certificate,) = read_acme(document, source=tmp_path)
    assert "PRIVATE" not in repr(certificate)
    assert make_context(certificate) is not None
    assert choose([certificate], "smtp.one.example") is certificate
    assert not covers("*.example", "a.b.example")
