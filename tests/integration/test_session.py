"""SMTP transcripts over real sockets against the whole relay."""

from __future__ import annotations

import base64
import smtplib
import ssl

import pytest

from sandbox.processes import wait_until
from sandbox.stack import DEMO_SECRET, Stack
from tests.support.wire import Wire, simple


def test_the_specifications_telnet_transcript_word_for_word(plain_relay: Stack) -> None:
    with Wire(plain_relay.port_submission) as wire:
        assert wire.greeting == "220 localhost Plunk SMTP Relay"
        assert wire.say("EHLO localhost").startswith("250")
        assert wire.say("AUTH LOGIN").startswith("334")
        assert wire.say("cGx1bms=").startswith("334")
        assert wire.say(DEMO_SECRET).startswith("235")
        assert wire.say("MAIL FROM:<sender@example.com>").startswith("250")
        assert wire.say("RCPT TO:<recipient@example.com>").startswith("250")
        assert wire.say("DATA").startswith("354")
        wire.send(b"Subject: Test Email\r\nFrom: sender@example.com\r\nTo: recipient@example.com\r\n\r\n")
        wire.send(b"This is a test email.\r\n.\r\n")
        assert wire.reply().startswith("250 2.0.0 Message accepted")
        assert wire.say("QUIT").startswith("221")
    wait_until(lambda: plain_relay.api.sent(), timeout=30, what="the mail")
    body = plain_relay.api.sent()[0]["body"]
    assert body["subject"] == "Test Email"
    assert body["body"] == "<div>This is a test email.</div>"


def test_ehlo_announces_what_is_kept(plain_relay: Stack) -> None:
    with Wire(plain_relay.port_submission) as wire:
        lines = {line[4:] for line in wire.say("EHLO test").split("\n")}
    assert {"SIZE 10485760", "8BITMIME", "SMTPUTF8", "PIPELINING", "ENHANCEDSTATUSCODES", "AUTH PLAIN LOGIN"} <= lines
    assert "STARTTLS" not in lines


# Each line of a session on a fresh plaintext connection after EHLO and AUTH, and how its reply begins.
REFUSALS = [
    ("WHAT", "500 5.5.1"),
    ("NOOP\nMAIL", "500 5.5.2"),
    ("EXPN list", "502 5.5.1"),
    ("VRFY a@example.com", "252 2.5.2"),
    ("HELP", "214 2.0.0"),
    ("RSET", "250 2.0.0"),
    ("STARTTLS", "454 4.7.0"),
    ("AUTH PLAIN x", "503 5.5.1"),
    ("DATA", "503 5.5.1"),
    ("RCPT TO:<b@x.example>", "503 5.5.1"),
    ("MAIL FROM:<>", "550 5.1.7"),
    ("MAIL FROM:a b", "555 5.5.4"),
    ("MAIL FROM:<a@example.com", "501 5.5.4"),
    ("MAIL TO:<a@example.com>", "501 5.5.4"),
    ("MAIL FROM:<nobody>", "553 5.1.7"),
    ("MAIL FROM:<a@unverified.example>", "550 5.7.1 Sender domain is not verified"),
    ("MAIL FROM:<a@else.example>", "550 5.7.1 Sender domain is not verified"),
    ("MAIL FROM:<a@EXAMPLE.com> SIZE=100 BODY=8BITMIME AUTH=<> RET=HDRS ENVID=x", "250 2.0.0"),
    ("MAIL FROM:<a@example.com> SIZE=10485761", "552 5.3.4"),
    ("MAIL FROM:<a@example.com> BODY=BINARYMIME", "555 5.5.4"),
    ("MAIL FROM:<a@example.com> FOO=1", "555 5.5.4"),
    ("mail from:<a@example.com>", "250 2.0.0"),
]


@pytest.mark.parametrize(("line", "begins"), REFUSALS, ids=lambda value: str(value)[:40])
def test_each_command_has_its_reply(plain_relay: Stack, line: str, begins: str) -> None:
    with Wire(plain_relay.port_submission) as wire:
        assert wire.login().startswith("235 2.7.0")
        assert wire.say(line).startswith(begins)
        # After a bare LF the connection is closed.
        assert "\n" in line or wire.say("NOOP").startswith("250")


def test_mail_needs_authentication_and_ehlo(plain_relay: Stack) -> None:
    with Wire(plain_relay.port_submission) as wire:
        assert wire.say("MAIL FROM:<a@example.com>").startswith("503 5.5.1")
        wire.say("EHLO test")
        assert wire.say("MAIL FROM:<a@example.com>").startswith("530 5.7.0")


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    "lines",
    [
        [("AUTH PLAIN " + _b64(f"\0plunk\0{DEMO_SECRET}"), "235")],
        [("auth plain " + _b64(f"\0PLUNK\0{DEMO_SECRET}"), "235")],
        [("AUTH PLAIN", "334"), (_b64(f"\0Plunk\0{DEMO_SECRET}"), "235")],
        [("AUTH login", "334"), (_b64("plunk"), "334"), (_b64(DEMO_SECRET), "235")],
        [("AUTH LOGIN " + _b64("plunk"), "334"), (DEMO_SECRET, "235")],
        [("AUTH LOGIN", "334"), ("*", "501 5.7.0")],
        [("AUTH PLAIN !!!", "501 5.5.2")],
        [("AUTH CRAM-MD5", "504 5.5.4")],
        [("AUTH PLAIN " + _b64("\0plunk\0sk_wrong"), "535 5.7.8 Authentication credentials invalid")],
        [("AUTH PLAIN " + _b64(f"\0root\0{DEMO_SECRET}"), "535 5.7.8 Authentication credentials invalid")],
        [("AUTH PLAIN " + _b64("\0plunk\0"), "535 5.7.8 Authentication credentials invalid")],
    ],
    ids=lambda lines: lines[0][0][:24],
)
def test_auth_exchanges(plain_relay: Stack, lines: list[tuple[str, str]]) -> None:
    with Wire(plain_relay.port_submission) as wire:
        wire.say("EHLO test")
        for said, begins in lines:
            assert wire.say(said).startswith(begins)


def test_failed_authentications_end_the_connection(plain_relay: Stack) -> None:
    with Wire(plain_relay.port_submission) as wire:
        assert [wire.login("sk_wrong")[:3] for _ in range(3)] == ["535"] * 3
        assert wire.reply().startswith("421 4.7.0")
        assert wire.is_closed()


def test_garbage_ends_in_421(plain_relay: Stack) -> None:
    with Wire(plain_relay.port_submission) as wire:
        replies = [wire.say("garbage")[:3] for _ in range(20)]
        assert set(replies) == {"500"}
        assert wire.reply().startswith("421 4.7.0")


def test_the_last_reply_reaches_a_client_that_talks_on(plain_relay: Stack) -> None:
    # More than the relay's and the kernel's buffers hold: closing on it would reset the connection, reply and all.
    with Wire(plain_relay.port_submission) as wire:
        wire.send(b"FOO BAR\r\n" * 1_000_000)
        replies = []
        while reply := wire.reply():
            replies.append(reply)
        assert replies[-1].startswith("421 4.7.0")
        assert {reply[:3] for reply in replies[:-1]} == {"500"}


def test_a_command_without_end_is_bounded_and_refused(plain_relay: Stack) -> None:
    with Wire(plain_relay.port_submission) as wire:
        for _ in range(100):
            wire.send(b"A" * 100_000)
        assert wire.say("").startswith("500 5.5.6")
        assert wire.say("NOOP").startswith("250")


# What is not CRLF.CRLF must not end a message: all that follows is content, never a second message.
FALSE_ENDS = [b"\n.\n", b"\n.\r\n", b"\r.\r", b"\r\n.\n", b"\r.\r\n", b"\r\n.\r", b"\r\n\x00.\r\n"]


@pytest.mark.parametrize("false_end", FALSE_ENDS, ids=repr)
def test_smuggling_yields_one_message(plain_relay: Stack, false_end: bytes) -> None:
    smuggled = b"MAIL FROM:<evil@example.com>\r\nRCPT TO:<v@x.example>\r\nDATA\r\nSubject: evil\r\n\r\nx"
    with Wire(plain_relay.port_submission) as wire:
        wire.login()
        assert wire.message(simple(subject="one") + false_end + smuggled).startswith("250")
        assert wire.say("NOOP") == "250 2.0.0 OK"
    wait_until(lambda: plain_relay.api.sent(), timeout=30, what="the mail")
    assert [mail["body"]["subject"] for mail in plain_relay.api.sent()] == ["one"]


def test_pipelined_commands_are_answered_in_order(plain_relay: Stack) -> None:
    with Wire(plain_relay.port_submission) as wire:
        wire.login()
        wire.send(b"MAIL FROM:<a@example.com>\r\nRCPT TO:<b@x.example>\r\nRCPT TO:<bad>\r\nDATA\r\n")
        assert [wire.reply()[:3] for _ in range(4)] == ["250", "250", "553", "354"]
        wire.send(simple(subject="piped") + b"\r\n.\r\nRSET\r\nNOOP\r\nQUIT\r\n")
        assert [wire.reply()[:3] for _ in range(4)] == ["250", "250", "250", "221"]


def test_too_many_recipients_and_repeated_ones(plain_relay: Stack) -> None:
    with Wire(plain_relay.port_submission) as wire:
        wire.login()
        wire.say("MAIL FROM:<a@example.com>")
        for number in (1, 2, 3, 4, 5, 5):
            assert wire.say(f"RCPT TO:<b{number}@x.example> NOTIFY=NEVER ORCPT=rfc822;x").startswith("250")
        assert wire.say("RCPT TO:<b6@x.example>").startswith("452 4.5.3 Too many recipients: at most 5")
        assert wire.say("DATA").startswith("354")
        wire.send(simple() + b"\r\n.\r\n")
        assert wire.reply().startswith("250")
    wait_until(lambda: plain_relay.api.sent(), timeout=30, what="the mail")
    assert plain_relay.api.sent()[0]["body"]["to"] == [f"b{number}@x.example" for number in (1, 2, 3, 4, 5)]


@pytest.mark.parametrize(
    ("data", "begins"),
    [
        (b"", "550 5.6.0 From header"),
        (b"Subject: x\r\n\r\nbody", "550 5.6.0 From header"),
        (b"From: a@example.com\r\n\r\nbody", "550 5.6.0 Subject is required"),
        (b"From: a@example.com\r\nSubject: " + b"s" * 999 + b"\r\n\r\nbody", "550 5.6.0 Subject is longer"),
        (b"From: a@unverified.example\r\nSubject: s\r\n\r\nbody", "550 5.7.1 Sender domain is not verified"),
        (b'From: "a@example.com" <a@else.example>\r\nSubject: s\r\n\r\nbody', "550 5.7.1 Sender domain"),
        (b"From: a@example.com, b@else.example\r\nSubject: s\r\n\r\nbody", "550 5.7.1 Sender domain"),
        (b"From: a@example.com\r\nSubject: s\r\nX-Plunk-Data: [1]\r\n\r\nbody", "550 5.6.0 X-Plunk-Data"),
    ],
    ids=lambda value: str(value)[-40:],
)
def test_messages_that_are_refused(plain_relay: Stack, data: bytes, begins: str) -> None:
    with Wire(plain_relay.port_submission) as wire:
        wire.login()
        assert wire.message(data).startswith(begins)
        assert wire.message(simple(subject="after")).startswith("250"), "the session goes on"


def test_an_oversize_message_is_refused_for_good_and_the_session_goes_on(plain_relay: Stack) -> None:
    with Wire(plain_relay.port_submission) as wire:
        wire.login()
        line = b"x" * 998 + b"\r\n"
        assert wire.message(simple() + line * 11_000).startswith("552 5.3.4")
        assert wire.message(simple(subject="after")).startswith("250")


def test_a_message_of_the_full_size_with_long_lines_is_taken(plain_relay: Stack) -> None:
    with Wire(plain_relay.port_submission) as wire:
        wire.login()
        assert wire.message(simple(subject="big", body="x" * 10_000_000)).startswith("250")
    wait_until(lambda: plain_relay.api.sent(), timeout=30, what="the mail")
    assert plain_relay.api.sent()[0]["body"]["body"].count("x") == 10_000_000


def test_a_dropped_message_is_checked_and_not_sent(plain_relay: Stack) -> None:
    with Wire(plain_relay.port_submission) as wire:
        wire.login()
        assert wire.message(simple(extra="X-Plunk-Drop: true\r\n")).startswith("250 2.0.0 Message checked, not sent")
    assert plain_relay.api.counts()["preflights"] == 1
    assert plain_relay.api.sent() == []


def test_a_clients_repeat_is_one_mail(plain_relay: Stack) -> None:
    first = simple(subject="once", extra="Message-ID: <repeat@test>\r\n")
    with Wire(plain_relay.port_submission) as wire:
        wire.login()
        one, two = wire.message(first), wire.message(first)
        other = wire.message(simple(subject="other", extra="Message-ID: <repeat@test>\r\n"))
    assert one == two != other
    wait_until(lambda: len(plain_relay.api.sent()) == 2, timeout=30, what="both mails")
    assert sorted(mail["body"]["subject"] for mail in plain_relay.api.sent()) == ["once", "other"]


def test_a_domain_verified_a_moment_ago_is_taken_on_the_same_session(plain_relay: Stack) -> None:
    secret = "sk_moment_ago"
    project = plain_relay.add_project(secret, unverified=["moment.example"])
    with Wire(plain_relay.port_submission) as wire:
        wire.login(secret)
        assert wire.say("MAIL FROM:<a@moment.example>").startswith("550")
        plain_relay.postgres.execute(f"UPDATE domains SET verified = true WHERE \"projectId\" = '{project}'")
        assert wire.message(simple(sender="a@moment.example"), sender="a@moment.example").startswith("250")


# What the API says to the preflight, and how the reply begins.
PREFLIGHTS = [
    (402, "554 5.7.0 Transaction failed: no money"),
    (403, "554 5.7.1 Transaction failed: no money"),
    (404, "554 5.0.0 Transaction failed: no money"),
]


@pytest.mark.parametrize(("status", "begins"), PREFLIGHTS)
def test_the_preflight_decides_the_reply(plain_relay: Stack, status: int, begins: str) -> None:
    plain_relay.api.fail("status", scope="preflight", status=status, message="no money", times=1)
    with Wire(plain_relay.port_submission) as wire:
        wire.login()
        assert wire.message(simple()).startswith(begins)
        assert wire.message(simple()).startswith("250")


def test_a_blip_at_the_preflight_is_only_a_slower_250(plain_relay: Stack) -> None:
    plain_relay.api.fail("status", scope="preflight", status=503, times=1)
    plain_relay.api.fail("drop", scope="preflight", times=1)
    with Wire(plain_relay.port_submission) as wire:
        wire.login()
        assert wire.message(simple()).startswith("250")


def test_starttls_and_what_goes_without_it(relay: Stack) -> None:
    with Wire(relay.port_submission) as wire:
        assert "STARTTLS" in wire.say("EHLO test")
        assert wire.say("AUTH PLAIN x").startswith("538 5.7.11")
        assert wire.say("MAIL FROM:<a@example.com>").startswith("530 5.7.0 Must issue a STARTTLS")


def test_commands_pipelined_behind_starttls_are_thrown_away(relay: Stack) -> None:
    context = ssl.create_default_context(cafile=str(relay.certificates / "fullchain.pem"))
    with Wire(relay.port_submission) as wire:
        wire.say("EHLO test")
        wire.send(b"STARTTLS\r\nNOOP\r\n")
        assert wire.reply().startswith("220 2.0.0")
        with context.wrap_socket(wire.socket, server_hostname="localhost") as secure:
            secure.sendall(b"EHLO again\r\n")
            answer = secure.recv(4096)
            assert answer.startswith(b"250-localhost"), "the first answer under TLS is EHLO's, not NOOP's"


def test_implicit_tls_offers_auth_and_relays(relay: Stack) -> None:
    context = ssl.create_default_context(cafile=str(relay.certificates / "fullchain.pem"))
    with smtplib.SMTP_SSL("localhost", relay.port_secure, timeout=30, context=context) as client:
        client.ehlo()
        assert client.esmtp_features["auth"].split() == ["PLAIN", "LOGIN"]
        assert "starttls" not in client.esmtp_features
        client.login("plunk", DEMO_SECRET)
        client.sendmail("a@example.com", ["b@x.example"], simple(subject="465"))
    wait_until(lambda: relay.api.sent(), timeout=30, what="the mail")
    assert relay.api.sent()[0]["body"]["subject"] == "465"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_versions(relay: Stack, version: ssl.TLSVersion) -> None:
    context = ssl.create_default_context(cafile=str(relay.certificates / "fullchain.pem"))
    context.minimum_version = context.maximum_version = version
    with smtplib.SMTP_SSL("localhost", relay.port_secure, timeout=30, context=context) as client:
        assert client.noop()[0] == 250
