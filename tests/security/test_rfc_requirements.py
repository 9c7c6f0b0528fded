"""What the RFCs demand of a submission server, sentence by sentence: each row is played over a real connection."""

from __future__ import annotations

import base64
import re
import ssl
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import pytest

from sandbox.processes import wait_until
from sandbox.stack import DEMO_SECRET, Stack
from shared.settings import load_settings
from tests.support.wire import Wire, simple

Where = Literal["clear", "before TLS", "STARTTLS", "implicit TLS"]
"""clear: no certificate. The others: with one, before and after STARTTLS and on the port with implicit TLS."""

Step = tuple[str | bytes, str]
"""What is said (text: with CRLF; bytes: as they are; "": nothing) and what the reply must match, from its begin."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One requirement and the dialogue that shows it."""

    rfc: int
    section: str
    level: Literal["MUST", "MUST NOT", "SHOULD", "SHOULD NOT", "MAY"]
    says: str
    where: Where = "clear"
    steps: Sequence[Step]
    delivered: str = ""
    """Subject of the mail that must arrive, "" = none is looked for."""


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


LOGIN: Final[list[Step]] = [
    ("EHLO client.example", "250-"),
    (f"AUTH PLAIN {b64(f'{chr(0)}plunk{chr(0)}{DEMO_SECRET}')}", "235 2.7.0"),
]
MAIL: Final[Step] = ("MAIL FROM:<a@example.com>", "250 2.0.0")
RCPT: Final[Step] = ("RCPT TO:<b@x.example>", "250 2.0.0")
DATA: Final[Step] = ("DATA", "354 ")


def message(subject: str, body: str = "Text") -> bytes:
    return simple(subject=subject, body=body) + b"\r\n.\r\n"


# ruff: noqa: E501
# fmt: off
ROWS: Final = [
    # RFC 5321: SMTP
    Row(rfc=5321, section="2.3.8", level="MUST NOT", says="no other sequence than CRLF is recognised as a line's end",
        steps=[*LOGIN, (b"NO\rOP\r\n", "500 5.5.2"), (b"NOOP\nNOOP\r\n", "500 5.5.2"), (b"", "$")]),
    Row(rfc=5321, section="2.4", level="MUST", says="verbs and keywords are read in any case",
        steps=[("eHlO client.example", "250-"), *LOGIN[1:], ("mail from:<a@example.com> Size=100 bOdY=8BitMime", "250"),
               ("RcPt tO:<b@x.example>", "250"), ("data", "354")]),
    Row(rfc=5321, section="2.4", level="MUST", says="the case of a local part is kept", delivered="case",
        steps=[*LOGIN, ("MAIL FROM:<a@EXAMPLE.com>", "250"), ("RCPT TO:<MixedCase@X.example>", "250"), DATA,
               (message("case"), "250")]),
    Row(rfc=5321, section="3.1", level="MUST", says="a session opens with a 220 greeting that names the server",
        steps=[(b"", r"220 localhost ")]),
    Row(rfc=5321, section="3.3", level="MAY", says="DATA without an accepted recipient: 503 or 554, and no 354",
        steps=[*LOGIN, ("DATA", "503"), MAIL, ("DATA", "503"), ("RCPT TO:<not an address>", "5"), ("DATA", "503")]),
    Row(rfc=5321, section="3.3", level="MUST", says="RCPT without MAIL: 503", steps=[*LOGIN, (*RCPT[:1], "503 5.5.1")]),
    Row(rfc=5321, section="3.5.3", level="MUST NOT", says="VRFY gets no 250 for what was not verified",
        steps=[("EHLO client.example", "250-"), ("VRFY postmaster", "252 2.5.2")]),
    Row(rfc=5321, section="7.3", level="MUST", says="a disabled VRFY is 252, not 502 or 500", steps=[("VRFY a@example.com", "252")]),
    Row(rfc=5321, section="4.1.1.1", level="MUST", says="EHLO is answered by the server's name and one keyword a line",
        steps=[("EHLO client.example", r"250-localhost\n(250-[A-Z0-9]+[ A-Z0-9]*\n)+250 [A-Z0-9 ]+$")]),
    Row(rfc=5321, section="4.1.1.1", level="MUST", says="HELO is supported", steps=[("HELO client.example", r"250 localhost$")]),
    Row(rfc=5321, section="4.1.4", level="MUST", says="EHLO comes before a mail transaction", steps=[(*MAIL[:1], "503")]),
    Row(rfc=5321, section="4.1.4", level="MUST", says="a later EHLO resets the transaction as RSET does",
        steps=[*LOGIN, MAIL, RCPT, ("EHLO again.example", "250-"), ("DATA", "503"), MAIL]),
    Row(rfc=5321, section="4.1.4", level="MUST NOT", says="mail is not refused for a name in EHLO that is not the client's",
        steps=[("EHLO [192.0.2.255]", "250-"), *LOGIN[1:], MAIL]),
    Row(rfc=5321, section="4.1.4", level="MUST NOT", says="MAIL is not taken while a transaction is open",
        steps=[*LOGIN, MAIL, (*MAIL[:1], "503 5.5.1"), RCPT]),
    Row(rfc=5321, section="4.1.4", level="SHOULD", says="NOOP, HELP, VRFY and RSET are answered without EHLO",
        steps=[("NOOP", "250"), ("HELP", "214"), ("VRFY x", "252"), ("RSET", "250")]),
    Row(rfc=5321, section="4.1.1.3", level="MUST", says="a source route is accepted and ignored", delivered="route",
        steps=[*LOGIN, MAIL, ("RCPT TO:<@one.example,@two.example:b@x.example>", "250"), DATA, (message("route"), "250")]),
    Row(rfc=5321, section="4.1.1.4", level="MUST", says="the end of data is CRLF.CRLF and nothing else", delivered="end",
        steps=[*LOGIN, MAIL, RCPT, DATA, (message("end", body="a\n.\nb\n.\r\nc\r.\rd"), "250"), ("NOOP", "250")]),
    Row(rfc=5321, section="4.1.1.4", level="MUST", says="after the end of data the buffers are cleared",
        steps=[*LOGIN, MAIL, RCPT, DATA, (message("cleared"), "250"), ("DATA", "503"), (*RCPT[:1], "503")]),
    Row(rfc=5321, section="4.1.1.4", level="MUST", says="the reply to the end of data says whether the server is responsible",
        delivered="promise", steps=[*LOGIN, MAIL, RCPT, DATA, (message("promise"), r"250 2\.0\.0 .*queued as \S+$")]),
    Row(rfc=5321, section="4.1.1.5", level="MUST", says="RSET clears everything of the transaction and gets 250",
        steps=[*LOGIN, MAIL, RCPT, ("RSET", "250"), ("DATA", "503"), (*RCPT[:1], "503")]),
    Row(rfc=5321, section="4.1.1.5", level="MUST NOT", says="RSET closes no connection, however often it comes",
        steps=[*[("RSET", "250")] * 300, ("NOOP", "250")]),
    Row(rfc=5321, section="4.1.1.9", level="SHOULD", says="a parameter of NOOP is ignored", steps=[("NOOP a b c", "250")]),
    Row(rfc=5321, section="4.1.1.10", level="MUST", says="QUIT gets 221, and then the connection is closed",
        steps=[("QUIT", "221"), (b"", r"$")]),
    Row(rfc=5321, section="4.1.1.10", level="MUST NOT", says="an error alone closes no connection",
        steps=[*[("GARBAGE", "500")] * 10, ("NOOP", "250")]),
    Row(rfc=5321, section="4.1.1.11", level="MUST", says="a parameter that is not recognised is 555",
        steps=[*LOGIN, ("MAIL FROM:<a@example.com> XFOO=1", "555"), MAIL, ("RCPT TO:<b@x.example> XFOO=1", "555")]),
    Row(rfc=5321, section="4.1.2", level="MUST", says="a path is read with its quoted local part",
        steps=[*LOGIN, ('MAIL FROM:<"a b"@example.com>', "250")]),
    Row(rfc=5321, section="4.2.4", level="SHOULD", says="a command that is not known is 500, one not implemented 502",
        steps=[("FROBNICATE", "500"), ("EXPN list", "502"), ("", "500")]),
    Row(rfc=5321, section="4.2.1", level="MUST", says="a reply of several lines has the same code with a hyphen on all but the last",
        steps=[("EHLO client.example", r"(250-.*\n)+250 .*$")]),
    Row(rfc=5321, section="4.5.1", level="MUST", says="EHLO, HELO, MAIL, RCPT, DATA, RSET, NOOP, QUIT and VRFY are supported",
        steps=[("HELO client.example", "250"), ("NOOP", "250"), ("VRFY x", "252"), *LOGIN, MAIL, RCPT, ("RSET", "250"),
               MAIL, RCPT, DATA, (message("minimum"), "250"), ("QUIT", "221")]),
    Row(rfc=5321, section="4.5.2", level="MUST", says="a first dot of a line with more behind it is taken off", delivered="dots",
        steps=[*LOGIN, MAIL, RCPT, DATA, (message("dots", body="..\r\n.. two\r\n...three"), "250")]),
    Row(rfc=5321, section="4.5.3.1.1", level="MUST", says="a local part of 64 octets is taken",
        steps=[*LOGIN, (f"MAIL FROM:<{'a' * 64}@example.com>", "250"), (f"RCPT TO:<{'b' * 64}@x.example>", "250")]),
    Row(rfc=5321, section="4.5.3.1.4", level="MUST", says="a command line of 512 octets is taken",
        steps=[("NOOP " + "x" * 505, "250"), (f"EHLO {'x' * 505}", "250-")]),
    Row(rfc=5321, section="4.5.3.1.6", level="MUST", says="a text line of 1,000 octets is taken", delivered="long",
        steps=[*LOGIN, MAIL, RCPT, DATA, (message("long", body="x" * 998), "250")]),
    Row(rfc=5321, section="4.5.3.1.7", level="MUST", says="a message of 64 KiB is taken", delivered="64k",
        steps=[*LOGIN, MAIL, RCPT, DATA, (message("64k", body=("x" * 76 + "\r\n") * 850), "250")]),
    Row(rfc=5321, section="4.5.3.1.10", level="MUST", says="one recipient too many is 452, and those before stay accepted",
        delivered="some", steps=[*LOGIN, MAIL, *[(f"RCPT TO:<b{n}@x.example>", "250") for n in range(5)],
                                 ("RCPT TO:<b5@x.example>", "452 4.5.3"), DATA, (message("some"), "250")]),
    # RFC 1870, 6152, 6531: SIZE, 8BITMIME, SMTPUTF8
    Row(rfc=1870, section="6.1", level="MUST", says="a declared size over the fixed maximum is 552",
        steps=[*LOGIN, ("MAIL FROM:<a@example.com> SIZE=99999999", "552 5.3.4"), ("MAIL FROM:<a@example.com> SIZE=1", "250")]),
    Row(rfc=6152, section="3", level="MUST", says="BODY takes 7BIT and 8BITMIME",
        steps=[*LOGIN, ("MAIL FROM:<a@example.com> BODY=7BIT", "250"), ("RSET", "250"), ("MAIL FROM:<a@example.com> BODY=8BITMIME", "250")]),
    Row(rfc=2920, section="3.2", level="MUST", says="pipelined commands are answered one by one, in order",
        steps=[*LOGIN, (b"MAIL FROM:<a@example.com>\r\nRCPT TO:<b@x.example>\r\nNOOP\r\n", "250"), (b"", "250"), (b"", "250")]),
    Row(rfc=2034, section="4", level="MUST", says="2xx, 4xx and 5xx replies carry an enhanced code of their class, EHLO's apart",
        steps=[("NOOP", "250 2"), ("HELP", "214 2"), ("VRFY x", "252 2"), ("GARBAGE", "500 5"), ("QUIT", "221 2")]),
    # RFC 3207: STARTTLS
    Row(rfc=3207, section="4", level="MUST", says="STARTTLS with a parameter is 501", where="before TLS",
        steps=[("EHLO client.example", "(?s).*STARTTLS"), ("STARTTLS now", "501 5.5.4")]),
    Row(rfc=3207, section="4", level="SHOULD", says="mail before TLS is 530 Must issue a STARTTLS command first", where="before TLS",
        steps=[("EHLO client.example", "250-"), (*MAIL[:1], "530 5.7.0 Must issue a STARTTLS command first")]),
    Row(rfc=3207, section="4", level="MUST", says="STARTTLS that cannot be is 454", steps=[("EHLO client.example", "250-"), ("STARTTLS", "454")]),
    Row(rfc=3207, section="4.2", level="MUST", says="after the handshake nothing said before is known: EHLO again", where="STARTTLS",
        steps=[(*LOGIN[1][:1], "503 5.5.1"), (*MAIL[:1], "503"), *LOGIN, MAIL]),
    Row(rfc=3207, section="4.2", level="MUST NOT", says="STARTTLS is not offered under TLS", where="STARTTLS",
        steps=[("EHLO client.example", r"(?s)(?!.*STARTTLS)250-"), ("STARTTLS", "503 5.5.1")]),
    # RFC 4954: AUTH
    Row(rfc=4954, section="3", level="MUST", says="AUTH is announced with its mechanisms, and may change by STARTTLS", where="STARTTLS",
        steps=[("EHLO client.example", r"(?s).*250-AUTH PLAIN LOGIN\n")]),
    Row(rfc=4954, section="4", level="MUST", says="AUTH after a successful AUTH is 503", steps=[*LOGIN, ("AUTH PLAIN", "503"), ("AUTH LOGIN", "503")]),
    Row(rfc=4954, section="4", level="MUST", says="the transaction goes on after an AUTH in it was refused by 503",
        steps=[*LOGIN, MAIL, ("AUTH PLAIN", "503"), RCPT]),
    Row(rfc=4954, section="4", level="MUST", says="a mechanism that is not supported is 504 5.5.4",
        steps=[LOGIN[0], ("AUTH CRAM-MD5", "504 5.5.4"), ("AUTH SCRAM-SHA-256 x", "504 5.5.4"), ("AUTH", "504 5.5.4")]),
    Row(rfc=4954, section="4", level="MUST", says="a challenge without data is 334 and a space", steps=[LOGIN[0], ("AUTH PLAIN", r"334 $")]),
    Row(rfc=4954, section="4", level="MUST", says="* cancels the exchange with 501",
        steps=[LOGIN[0], ("AUTH PLAIN", "334"), ("*", "501"), ("AUTH LOGIN", "334"), ("*", "501"), LOGIN[1]]),
    Row(rfc=4954, section="4", level="MUST", says="= is an initial response of no data", steps=[LOGIN[0], ("AUTH PLAIN =", "501 5.5.2")]),
    Row(rfc=4954, section="4", level="MUST", says="what is not base64, or has = in its middle, is 501 5.5.2",
        steps=[LOGIN[0], *[(f"AUTH PLAIN {bad}", "501 5.5.2") for bad in ("=AAA", "AAA=BBB", "AAAA=", "A", "AA-A", "AA A")]]),
    Row(rfc=4954, section="4", level="MUST", says="a line over the buffer is 500 5.5.6, and 12,288 octets are read",
        steps=[LOGIN[0], ("AUTH PLAIN", "334"), ("A" * 12_284, "501|535"), ("AUTH PLAIN", "334"), ("A" * 12_290, "500 5.5.6"), LOGIN[1]]),
    Row(rfc=4954, section="4", level="SHOULD", says="wrong credentials are 535 5.7.8",
        steps=[LOGIN[0], (f"AUTH PLAIN {b64(f'{chr(0)}plunk{chr(0)}sk_wrong')}", "535 5.7.8")]),
    Row(rfc=4954, section="4", level="MUST", says="no plaintext password without TLS in a configuration there is: with a certificate",
        where="before TLS", steps=[("EHLO client.example", r"(?s)(?!.*AUTH)250-"), (*LOGIN[1][:1], "538 5.7.11"), ("AUTH LOGIN", "538")]),
    Row(rfc=4954, section="4", level="MUST", says="PLAIN runs over TLS", where="implicit TLS", steps=[*LOGIN, MAIL]),
    Row(rfc=4954, section="5", level="MUST", says="AUTH= of MAIL is accepted",
        steps=[*LOGIN, ("MAIL FROM:<a@example.com> AUTH=<>", "250"), ("RSET", "250"), ("MAIL FROM:<a@example.com> AUTH=e+3Dmc2@example.com", "250")]),
    Row(rfc=4954, section="6", level="SHOULD", says="530 5.7.0 while authentication is due, but not for EHLO, NOOP, RSET, QUIT",
        steps=[LOGIN[0], (*MAIL[:1], "530 5.7.0"), ("NOOP", "250"), ("RSET", "250"), ("QUIT", "221")]),
    Row(rfc=4616, section="2", level="MUST", says="nobody may act as another: a foreign authorization identity is refused",
        steps=[LOGIN[0], (f"AUTH PLAIN {b64(f'root{chr(0)}plunk{chr(0)}{DEMO_SECRET}')}", "535"),
               (f"AUTH PLAIN {b64(f'Plunk{chr(0)}plunk{chr(0)}{DEMO_SECRET}')}", "235")]),
    # RFC 6409: submission
    Row(rfc=6409, section="4.2", level="MUST", says="domains of the envelope are fully qualified",
        steps=[*LOGIN, ("MAIL FROM:<a@localhost>", "550"), ("MAIL FROM:<a>", "553"), MAIL, ("RCPT TO:<b@localhost>", "553"), ("RCPT TO:<b>", "553")]),
    Row(rfc=6409, section="4.3", level="MUST", says="MAIL without authentication is 530", steps=[LOGIN[0], (*MAIL[:1], "530")]),
    Row(rfc=6409, section="4.3", level="MUST", says="under TLS too", where="implicit TLS", steps=[LOGIN[0], (*MAIL[:1], "530")]),
    Row(rfc=6409, section="5.1", level="SHOULD", says="addresses of illegal syntax are refused",
        steps=[*LOGIN, ("MAIL FROM:<a@@example.com", "501"), MAIL, ("RCPT TO:<b@x..example>", "553"), ("RCPT TO:<@>", "5")]),
    Row(rfc=6409, section="6.1", level="MAY", says="a sender without the right to it is 550 5.7.1",
        steps=[*LOGIN, ("MAIL FROM:<a@else.example>", "550 5.7.1")]),
    Row(rfc=6409, section="7", level="MUST", says="AUTH is supported, and 8BITMIME, PIPELINING, ENHANCEDSTATUSCODES (SHOULD) and SIZE (MAY)",
        steps=[("EHLO client.example", r"(?s)(?=.*AUTH )(?=.*8BITMIME)(?=.*PIPELINING)(?=.*ENHANCEDSTATUSCODES)(?=.*SIZE \d+)250-")]),
    # RFC 8314: TLS for submission
    Row(rfc=8314, section="3.3", level="MUST", says="on the port with implicit TLS the handshake comes first, then 220", where="implicit TLS",
        steps=[(b"", "220 "), ("EHLO client.example", r"(?s)(?!.*STARTTLS)250-")]),
    Row(rfc=8314, section="4.1", level="SHOULD", says="credentials do not travel in clear text where TLS is to be had", where="before TLS",
        steps=[("EHLO client.example", r"(?s)(?!.*AUTH)(?=.*STARTTLS)250-"), ("AUTH PLAIN", "538")]),
]
# fmt: on


def connect(stack: Stack, where: Where) -> Wire:
    if where in ("clear", "before TLS"):
        return Wire(stack.port_submission)
    context = ssl.create_default_context(cafile=str(stack.certificates / "fullchain.pem"))
    if where == "STARTTLS":
        wire = Wire(stack.port_submission)
        wire.start_tls(context)
        return wire
    return Wire(stack.port_secure, tls=context)


def reply_to(wire: Wire, said: str | bytes) -> str:
    if isinstance(said, bytes):
        wire.send(said)
        return wire.reply()
    return wire.say(said)


def play(wire: Wire, row: Row) -> None:
    for number, (said, wanted) in enumerate(row.steps):
        # A row that begins by saying nothing looks at the greeting.
        answer = wire.greeting if not number and said == b"" else reply_to(wire, said)
        assert re.match(wanted, answer), f"{str(said)[:80]!r} was answered {answer!r}, wanted {wanted!r}"


def name(row: Row) -> str:
    return f"RFC{row.rfc}-{row.section}-{row.says[:50]}"


CLEAR = [row for row in ROWS if row.where == "clear"]
WITH_TLS = [row for row in ROWS if row.where != "clear"]


@pytest.mark.parametrize("row", CLEAR, ids=name)
def test_requirement(plain_stack: Stack, row: Row) -> None:
    with closing(connect(plain_stack, row.where)) as wire:
        play(wire, row)
    if row.delivered:
        wait_until(
            lambda: row.delivered in [mail["body"]["subject"] for mail in plain_stack.api.sent()],
            timeout=30,
            what="the mail",
        )


@pytest.mark.parametrize("row", WITH_TLS, ids=name)
def test_requirement_under_tls(relay_stack: Stack, row: Row) -> None:
    with closing(connect(relay_stack, row.where)) as wire:
        play(wire, row)


def test_timeouts_are_as_long_as_clients_may_expect() -> None:
    # RFC 5321 section 4.5.3.2.7: at least 5 minutes for the next command.
    assert load_settings({}).idle_timeout >= 300


def test_what_the_rows_sent_arrived_as_it_was_meant(plain_relay: Stack) -> None:
    # RFC 5321 sections 2.4, 4.1.1.4 and 4.5.2.
    rows = {row.delivered: row for row in ROWS if row.delivered in ("case", "dots", "end")}
    for row in rows.values():
        with closing(connect(plain_relay, row.where)) as wire:
            play(wire, row)
    wait_until(lambda: len(plain_relay.api.sent()) == len(rows), timeout=30, what="the mails")
    bodies = {mail["body"]["subject"]: mail["body"] for mail in plain_relay.api.sent()}
    assert bodies["case"]["to"] == ["MixedCase@x.example"]
    assert bodies["dots"]["body"] == "<div>.<br>\n. two<br>\n..three</div>"
    # What ended no data is content, its bare LF and CR read as line breaks.
    assert bodies["end"]["body"] == "<div>a<br>\n.<br>\nb<br>\n.<br>\nc<br>\n.<br>\nd</div>"


def test_the_docs_hold_this_table() -> None:
    documented = (Path(__file__).parents[2] / "docs" / "rfc-requirements.md").read_text("utf-8")
    for row in ROWS:
        assert f"| {row.rfc} | {row.section} | {row.level} | {row.says} |" in documented
