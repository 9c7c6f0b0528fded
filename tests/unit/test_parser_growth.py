"""Parse time grows with a message's size and no faster, whatever the message is made of.

Each trap is parsed at one size and at eight times that size. Compared are CPU seconds of this thread, the least of
several tries, so neither the machine's speed nor what else runs on it matters: linear work costs eight times as much,
quadratic work sixty-four times.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import pytest

from ingress.message import parse
from ingress.message.addresses import parse_addresses
from ingress.message.headers import decode_words, parse_parameters
from ingress.message.patterns import IS_RIGHT
from ingress.message.structure import MAX_DEPTH, MAX_HEADER_BYTES, MAX_PARTS
from ingress.replies import SmtpError

FACTOR = 8
MOST = 20 if IS_RIGHT else 60
"""Times as much CPU as eight times the size may cost; halfway, on a logarithmic scale, to quadratic growth.

Atomic groups, which take the place of possessive ones on a Python before 3.11.5, keep each repetition until they end:
long runs outgrow the processor's cache between the two sizes. Past that they are linear (1 MB 50 ms, 10 MB 480 ms).
"""

LEAST_SECONDS = 0.001
"""A trap is repeated for at least so long, since shorter times are mostly noise."""

HEAD = b"From: a@x.example\r\nSubject: s\r\n"
MIXED = HEAD + b"Content-Type: multipart/mixed; boundary=A\r\n\r\n"


def header(value: str, name: str = "X-Long") -> bytes:
    return HEAD + f"{name}: {value}\r\n\r\nt".encode()


def encoded(name: str, body: bytes) -> bytes:
    return HEAD + f"Content-Transfer-Encoding: {name}\r\n\r\n".encode() + body


def mixed(part: bytes, count: int) -> bytes:
    return MIXED + (b"--A\r\n" + part + b"\r\n") * count


def nested(depth: int) -> bytes:
    levels = (b"Content-Type: multipart/mixed; boundary=B%d\r\n\r\n--B%d\r\n" % (n, n) for n in range(depth))
    return HEAD + b"".join(levels) + b"\r\nx"


def page(html: bytes) -> bytes:
    """A page with a text before it and one behind it."""
    return mixed(b"\r\nx", 1) + b"--A\r\nContent-Type: text/html\r\n\r\n" + html + b"\r\n--A\r\n\r\nx\r\n"


INVITATION = (
    b"Content-Type: multipart/alternative; boundary=B\r\n\r\n--B\r\nContent-Type: text/calendar\r\n\r\n"
    + b"BEGIN:VCALENDAR\r\n" * 20
    + b"--B--\r\n--A\r\nContent-Type: application/ics\r\n\r\nother"
)
"""An invitation and a file that is another."""


def attempt(raw: bytes) -> None:
    with contextlib.suppress(SmtpError):
        parse(raw, recipients=["b@x.example"])


def many(item: str, count: int) -> str:
    return ", ".join(item.format(n) for n in range(count))


# Name: what makes a message of n of something, and n.
MESSAGES: dict[str, tuple[Callable[[int], bytes], int]] = {
    "header of 1 MB": (lambda n: header("x" * n), 100_000),
    "folds": (lambda n: HEAD + b"X-A: b\r\n" + b" c\r\n" * n + b"\r\nt", 10_000),
    "junk among headers": (lambda n: HEAD + b"junk line\r\n" * n + b"\r\nt", 5_000),
    "8-bit junk among headers": (lambda n: HEAD + b"junk \xe9 line\r\n" * n + b"\r\nt", 5_000),
    "blank lines before headers": (lambda n: b"\r\n" * n + HEAD + b"\r\nt", 50_000),
    "CRs in a header": (lambda n: HEAD + b"X: \n" + b"\r" * n + b"\r\n\r\nt", 100_000),
    "parts": (lambda n: mixed(b"\r\nx", n), 110),
    "parts without a blank line": (lambda n: mixed(b"Content-Type: text/plain", n), 110),
    "multiparts with wrong boundaries": (lambda n: mixed(b"Content-Type: multipart/mixed; boundary=Z\r\n--x", n), 110),
    "headers that end nowhere": (lambda n: MIXED + b"--A\r\nContent-Type: a/b\r\n" + b"--x\r\n" * n, 10_000),
    "boundaries that almost match": (lambda n: MIXED + b"--A\r\n\r\n" + b"--A-\r\n" * n, 10_000),
    "long lines of dashes": (lambda n: MIXED + b"--A\r\n\r\n" + (b"-" * 500 + b"\r\n") * n, 1_000),
    "almost, 29 deep": (lambda n: nested(29) + b"\r\n" + b"--B1x\r\n" * n, 10_000),
    "closing delimiters": (lambda n: mixed(b"\r\nx", 1) + b"--A--\r\n" * n, 10_000),
    "quoted-printable, all =": (lambda n: encoded("quoted-printable", b"=" * n), 200_000),
    "quoted-printable, one line of spaces": (lambda n: encoded("quoted-printable", b" " * n + b"x \r\n"), 100_000),
    "quoted-printable, soft breaks": (lambda n: encoded("quoted-printable", b"= \r\n" * n), 20_000),
    "base64, all =": (lambda n: encoded("base64", b"=" * n), 200_000),
    "base64 in pieces": (lambda n: encoded("base64", b"YQ==\r\n" * n), 5_000),
    "base64 with a footer": (lambda n: encoded("base64", b"YQ==\r\n" + b"a footer\r\n" * n), 5_000),
    "uuencode": (lambda n: encoded("x-uuencode", b"begin 644 a\r\n" + b"#86)C\r\n" * n), 5_000),
    "uuencode, broken": (lambda n: encoded("x-uuencode", b"begin 644 a\r\n" + b"M\x80\r\n" * n), 5_000),
    "bare CRs": (lambda n: HEAD + b"\r\n" + b"\r" * n, 50_000),
    "Latin-1 without a charset": (lambda n: HEAD + b"\r\n" + b"\xe9" * n, 50_000),
    "pages of meta elements": (lambda n: mixed(b"Content-Type: text/html\r\n\r\n" + b"<meta " * 680, n), 50),
    "pages of charsets": (lambda n: mixed(b"Content-Type: text/html\r\n\r\n<meta " + b"charset " * 512, n), 50),
    "a page of bodies": (lambda n: page(b"<body a='>" * n), 10_000),
    "a page of quotes that never end": (lambda n: page(b"<body a=\"<html b='" * n), 10_000),
    "a page of comments": (lambda n: page(b"<!-- </body>" * n), 10_000),
    "a page of scripts": (lambda n: page(b"<script></body>" * n), 10_000),
    "a page of <": (lambda n: page(b"<" * n), 10_000),
    "a hundred pages": (lambda n: mixed(b"Content-Type: text/html\r\n\r\n<html><body>x</body></html>", n), 110),
    "invitations": (lambda n: mixed(INVITATION, n), 40),
    "References": (lambda n: header("<a@b> " * n, "References"), 10_000),
    "addresses in To": (lambda n: header(many("N {0} <n{0}@x.example>", n), "To"), 4_000),
    "encoded words in From": (lambda n: header("=?utf-8?q?a?= " * n + "<a@x.example>", "From"), 5_000),
}

# Name: a function of a header's value, what makes the value of n of something, and n.
VALUES: dict[str, tuple[Callable[[str], object], Callable[[int], str], int]] = {
    "100,000 addresses": (parse_addresses, lambda n: many("n{0}@x.example", n), 12_500),
    "100,000 addresses with names": (parse_addresses, lambda n: many("N {0} <n{0}@x.example>", n), 12_500),
    "addresses without commas": (parse_addresses, lambda n: "a@x.example " * n, 5_000),
    "a million ;": (parse_addresses, lambda n: ";" * n, 125_000),
    "many ,": (parse_addresses, lambda n: " ," * n, 50_000),
    "many :": (parse_addresses, lambda n: ":" * n, 20_000),
    "many <": (parse_addresses, lambda n: "<" * n, 100_000),
    "many < with addresses": (parse_addresses, lambda n: "<a@b" * n, 3_000),
    "many <>": (parse_addresses, lambda n: "<>" * n, 5_000),
    "many @": (parse_addresses, lambda n: "@" * n, 30_000),
    "spaces after an address": (parse_addresses, lambda n: "a@b" + " " * n + "c", 50_000),
    "a name of spaces": (parse_addresses, lambda n: "a" + " " * n + "b <a@x", 50_000),
    "unterminated quote": (parse_addresses, lambda n: '"' + "a" * n, 100_000),
    "escaped quotes": (parse_addresses, lambda n: '"' + '\\"' * n, 10_000),
    "quotes between commas": (parse_addresses, lambda n: '",\\' * n, 5_000),
    "quotes": (parse_addresses, lambda n: '"' * n, 20_000),
    "unterminated comments": (parse_addresses, lambda n: "(" * n, 20_000),
    "comments beside a name": (parse_addresses, lambda n: "a (b) " * n + "<a@x>" + " (c)" * n, 5_000),
    "nested comments": (parse_addresses, lambda n: "(a" * n + ")" * n + " a@x", 10_000),
    "brackets": (parse_addresses, lambda n: "[" * n, 20_000),
    "an encoded list": (parse_addresses, lambda n: "=?utf-8?q?" + "=40," * n + "?=", 5_000),
    "encoded words": (decode_words, lambda n: "=?utf-8?q?a?= " * n, 5_000),
    "encoded words without an end": (decode_words, lambda n: "=?utf-8?q?a" * n, 5_000),
    "beginnings of encoded words": (decode_words, lambda n: "=?" * n, 20_000),
    "an encoded word of =": (decode_words, lambda n: "=?a?b?" + "=" * n, 30_000),
    "an encoded word of ?": (decode_words, lambda n: "=?a?q?" + "?" * n, 30_000),
    "languages of encoded words": (decode_words, lambda n: "=?a*" * n, 20_000),
    "RFC 2231, 10,000 continuations": (
        parse_parameters,
        lambda n: "a/b; " + "; ".join(f"name*{i}*=%41" for i in range(n)),
        1_250,
    ),
    "RFC 2231, huge numbers": (parse_parameters, lambda n: "a/b" + f"; name*{'9' * 50}=x" * n, 1_250),
    "; in parameters": (parse_parameters, lambda n: "a/b" + ";" * n, 50_000),
    "spaces in parameters": (parse_parameters, lambda n: "a/b;" + " " * n + "x", 50_000),
    "unterminated parameters": (parse_parameters, lambda n: "a/b" + ';a="' * n, 10_000),
    "escapes in parameters": (parse_parameters, lambda n: "a/b" + ';a="\\"' * n, 10_000),
    "a parameter's name": (parse_parameters, lambda n: "a/b;" + "a" * n, 50_000),
    "words in parameters": (parse_parameters, lambda n: "a/b" + " a" * n, 20_000),
    "empty parameters": (parse_parameters, lambda n: "a/b" + " a=" * n, 10_000),
}


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU seconds of ``work`` once, the least of several tries."""
    rounds, passed = 0, 0.0
    best = float("inf")
    while passed < LEAST_SECONDS or rounds < 2:
        start = time.thread_time()
        work()
        spent = time.thread_time() - start
        best = min(best, spent)
        passed += spent
        rounds += 1
    return best


def assert_linear(small: Callable[[], object], large: Callable[[], object]) -> None:
    # Another process may have the cache to itself for one of the two: what is wrong once only is not growth.
    for _ in range(3):
        before = max(cpu_seconds(small), 2e-5)
        after = cpu_seconds(large)
        if after < before * MOST:
            return
    pytest.fail(f"{FACTOR} times the size cost {after / before:.0f} times the CPU")


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message(name: str) -> None:
    build, count = MESSAGES[name]
    small, large = build(count), build(count * FACTOR)
    assert_linear(lambda: attempt(small), lambda: attempt(large))


@pytest.mark.parametrize("name", VALUES)
def test_a_value(name: str) -> None:
    read, build, count = VALUES[name]
    small, large = build(count), build(count * FACTOR)
    assert_linear(lambda: read(small), lambda: read(large))


def test_quadratic_work_is_noticed() -> None:
    def quadratic(count: int) -> None:
        for _ in range(count):
            for _ in range(count):
                pass

    with pytest.raises(pytest.fail.Exception, match="times the CPU"):
        assert_linear(lambda: quadratic(200), lambda: quadratic(200 * FACTOR))


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (mixed(b"\r\nx", 10_000), f"more than {MAX_PARTS} parts"),
        (nested(1_000), f"parts nested more than {MAX_DEPTH} deep"),
        (header("x" * 1_100_000), f"headers longer than {MAX_HEADER_BYTES} bytes"),
        (header(many("N {0} <n{0}@x.example>", 100_000), "To"), f"headers longer than {MAX_HEADER_BYTES} bytes"),
        (MIXED + b"--A\r\nContent-Type: a/b\r\n" + b"X: y\r\n" * 200_000, "headers longer than"),
        (HEAD + b"X: y\r\n" * 10_000 + b"\r\nt", "more than 2000 headers"),
    ],
    ids=["10,000 parts", "nesting 1,000 deep", "header of 1.1 MB", "100,000 addresses", "headers of a part", "headers"],
)
def test_what_is_past_a_cap_is_refused_with_the_reason(raw: bytes, reason: str) -> None:
    with pytest.raises(SmtpError) as refused:
        parse(raw, recipients=["b@x.example"])
    assert str(refused.value.reply).startswith(f"554 5.6.0 Message is too complex: {reason}")
