"""The parser against hostile mail: whatever comes in, a message that the API's schema takes comes out, or a refusal.

Bounded in ``make test``; ``make fuzz`` runs for ``FUZZ_SECONDS``. Two generators: messages grown as random trees of
parts from fragments that are each a little wrong, and mutations of the corpus.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from ingress.message import ParsedMessage, parse
from ingress.message.addresses import parse_addresses
from ingress.message.charsets import decode_text
from ingress.message.headers import decode_words, parse_parameters
from ingress.replies import SmtpError
from sandbox.plunk_api.schema import complaints

SECONDS = float(os.environ.get("FUZZ_SECONDS", "45"))
"""For all tests of this file together."""

SHARE = {"trees": 0.45, "corpus": 0.45, "values": 0.1}
EXAMPLES = 200
"""Of one round of hypothesis; rounds are added, each with its own seed, until the time is up."""

MOST_BYTES = 200_000
CORPUS = Path(__file__).parents[1] / "corpus"
RECIPIENTS = ("b@x.example", "c@xn--bcher-kva.example")

# Python warns where a codec reads escapes.
pytestmark = [pytest.mark.timeout(SECONDS * 2 + 120), pytest.mark.filterwarnings("error")]


def must_hold(raw: bytes) -> None:
    """A message in the API's schema, or ``SmtpError`` with a permanent code; never anything else."""
    try:
        found = parse(raw, recipients=RECIPIENTS)
    except SmtpError as refused:
        reply = refused.reply
    else:
        must_be_valid(found)
        return
    assert reply.code in (550, 552, 554), reply
    assert reply.encode().isascii()


def must_be_valid(found: ParsedMessage) -> None:
    call = orjson.loads(found.call)
    assert complaints(call) == []
    assert call["from"] == found.sender
    assert found.sender.rpartition("@")[2] in found.from_domains
    assert "\n" not in found.subject
    assert "\r" not in found.subject
    text = found.call.decode("utf-8")
    assert "\\u0000" not in text or call.get("data")


# --- messages as trees of parts

CHARSETS = [
    *("utf-8", "us-ascii", "iso-8859-1", "windows-1252", "utf-16", "utf-16le", "utf-32", "utf-7", "gb2312", "big5"),
    *("shift_jis", "iso-2022-jp", "iso-2022-kr", "euc-kr", "hz-gb-2312", "koi8-r", "x-unknown", "idna", "punycode"),
    *("unicode_escape", "undefined", "rot13", "base64", "cp65001", "utf-8-sig", "", "\0", "a" * 50, "cp" + "9" * 20),
]
ENCODINGS = [
    *("7bit", "8bit", "binary", "base64", "base64 ", "BASE64", "quoted-printable", "Quoted-Printable", "x-uuencode"),
    *("uue", '"base64"', "base64; x=y", "nonsense", "", " "),
]
TYPES = [
    *("text/plain", "text/html", "TEXT/HTML", "text/enriched", "text/calendar; method=REQUEST", "text/x-amp-html"),
    *("image/png", "application/pdf", "message/rfc822", "message/delivery-status", "application/ms-tnef", "text"),
    *("application/octet-stream", "multipart/mixed", "a/b/c", "/", ";", "text/plain text/html", "é/ü", '"text/html"'),
]
MULTIPARTS = ["mixed", "alternative", "related", "signed", "report", "digest", "x-unknown", "", "form-data"]
BOUNDARIES = ["A", "B", "A", "AB", "--A", "A--", " A ", "=_x", "", "a" * 80, "é", "=?utf-8?q?A?=", "'()+_,-./:=?"]
BREAKS = [b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b"\r\r\n"]
TEXTS = [
    *(b"Hello", b"", b" ", b"<p>x</p>", b"caf\xe9", "Grüße 🎉".encode(), b"=E9=", b"=\r\n", b"= \r\n", b"====", b"=3D"),
    *(b"SGVsbG8=", b"SGVs bG8", b"YQ==YQ==", b"!!!!", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"+2AA-", b'\x1b$B$"\x1b(B'),
    *(b"begin 644 a.txt\r\n#86)C\r\n`\r\nend", b"--", b"-- ", b"--A", b"--A--", b"> quoted ", b"cid:i@x", b"{{ x }}"),
    *(b"From: evil@y.example", b"Content-Type: text/html", b"<meta charset=utf-16>", b"<!doctype html>", b"~{<:Ky~}"),
    *(
        b"<html><body class='a>b'>",
        b"</body></html>",
        b"<!-- </body>",
        b"<script>",
        b'<body a="x',
        b"<title>t</title >",
    ),
    *(b"BEGIN:VCALENDAR", b"https://x.example/" + b"a" * 300, "\U0001f600".encode() * 200, b"\x85\xe2\x80\xa8", b"\t"),
]
VALUES = [
    *(
        "",
        " ",
        "x",
        "a@x.example",
        "A <a@x.example>",
        '"a@evil.example" <b@x.example>',
        "G: a@x.example;",
        "(",
        "((",
        '"',
    ),
    *(
        "<",
        "<>",
        "<<a@x.example>>",
        "a@x.example, b@y.example",
        "=?utf-8?q?=E2=82?= =?utf-8?q?=AC?=",
        "=?utf-8?b?/w==?=",
    ),
    *(
        "=?utf-16?b?2AA=?=",
        "=?x?q?=00=0D=0A?=",
        "=?utf-8?q?" + "=F0=9F=98=80" * 300 + "?=",
        "é",
        "\ud7ff",
        "<m@x>",
        "<m",
    ),
    *(
        "1" * 999,
        "a " * 600,
        "<r@x> " * 300,
        "true",
        '{"a": 1}',
        '{"a": "\\ud800"}',
        "[" * 400,
        '{"a":' * 300,
        "k" * 256,
    ),
    *("7a0c9a52-0000-4000-8000-000000000001", "\x7f\x85", "a\rb", "a\0b", "a@" + "x" * 300 + ".example", "a@-.example"),
    *("a@x..example", "ä@ü.example", "a@xn--a.example", "a@[1.2.3.4]", "a@" + "ü" * 70 + ".example", "🎉@x.example"),
]
NAMES = [
    *("From", "Subject", "To", "Cc", "Bcc", "Reply-To", "Sender", "Message-ID", "References", "In-Reply-To", "Date"),
    *("X-A", "x-a", "List-Unsubscribe", "Content-ID", "Content-Disposition", "Content-Transfer-Encoding", "Subject "),
    *("X-Plunk-Template", "X-Plunk-Data", "X-Plunk-Subscribed", "X-Plunk-Idempotency-Key", "X-Plunk-Drop", "X-Plunk-X"),
    *(
        "MIME-Version",
        "Resent-From",
        "__proto__",
        "constructor",
        "X-" + "n" * 300,
        "Content-Type",
        "junk line",
        "",
        "é",
    ),
]
FILENAMES = [
    *(
        '"a.pdf"',
        "a b.pdf",
        '"=?utf-8?q?=C3=A4.pdf?="',
        "ä.pdf",
        '"a"b".pdf"',
        '"../../etc/passwd"',
        '"C:\\\\x\\\\y.doc"',
    ),
    *(
        '"' + "n" * 400 + '.pdf"',
        '"' + "🎉" * 200 + '.pdf"',
        '""',
        '"',
        '"\\"',
        ";",
        '"a\r\n b"',
        '"="',
        '"/"',
        '"..\\"',
    ),
]


class Grower:
    """Grows one message from a source of chance that hypothesis can shrink."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.parts = 0

    def message(self) -> bytes:
        chance = self.chance
        lines = [b"From: A <a@x.example>", b"Subject: s"] if chance.random() < 0.9 else []
        lines += [self.field() for _ in range(chance.choice([0, 1, 3, 8, 60]))]
        chance.shuffle(lines)
        if chance.random() < 0.1:
            lines.insert(0, chance.choice([b"", b" ", b"\xef\xbb\xbf", b"From x Mon 12:00", b"junk"]))
        return self.join([*lines, *self.part(0)])[:MOST_BYTES]

    def join(self, lines: list[bytes]) -> bytes:
        chance = self.chance
        if chance.random() < 0.8:
            return b"\r\n".join(lines)
        return b"".join(line + chance.choice(BREAKS) for line in lines)

    def field(self) -> bytes:
        chance = self.chance
        value = chance.choice(VALUES)
        if chance.random() < 0.2:
            value += chance.choice([" ", ", ", "\r\n ", "; "]) + chance.choice(VALUES)
        codec = chance.choice(["utf-8", "utf-8", "utf-8", "latin-1"])
        return f"{chance.choice(NAMES)}: {value}".encode(codec, "replace")

    def parameters(self) -> str:
        chance = self.chance
        found = []
        if chance.random() < 0.6:
            found.append(f"charset={chance.choice(CHARSETS)}")
        if chance.random() < 0.2:
            found.append(chance.choice(["format=flowed", "format=flowed; delsp=yes", "method=a\tb", "start=i@x"]))
        if chance.random() < 0.3:
            key = chance.choice(["name", "name*", "name*0", "name*0*", "filename*1*", "name*99999999999999999999"])
            prefix = chance.choice(["", "utf-8''", "utf-16''", "x'y'z'"]) if "*" in key else ""
            found.append(f"{key}={prefix}{chance.choice([*FILENAMES, '%F0%9F%98', '%00%0d%0a', '%'])}")
        return "".join(chance.choice(["; ", ";", " ; ", " "]) + item for item in found)

    def part(self, depth: int) -> list[bytes]:
        """Header lines, a blank line mostly, and the body's."""
        chance = self.chance
        self.parts += 1
        if depth < 5 and self.parts < 40 and chance.random() < (0.6 if depth == 0 else 0.3):
            return self.multipart(depth)
        lines = []
        if chance.random() < 0.9:
            lines.append(f"Content-Type: {chance.choice(TYPES)}{self.parameters()}".encode())
        if chance.random() < 0.5:
            lines.append(f"Content-Transfer-Encoding: {chance.choice(ENCODINGS)}".encode())
        if chance.random() < 0.4:
            name = f"; filename={chance.choice(FILENAMES)}" if chance.random() < 0.7 else ""
            lines.append(f"Content-Disposition: {chance.choice(['attachment', 'inline', 'x'])}{name}".encode())
        if chance.random() < 0.3:
            lines.append(b"Content-ID: " + chance.choice([b"<i@x>", b"i@x", b"<>", b"<" + b"i" * 1100 + b">", b"\xff"]))
        chance.shuffle(lines)
        if chance.random() < 0.95:
            lines.append(b"")
        return lines + [chance.choice(TEXTS) for _ in range(chance.choice([0, 1, 1, 2, 5]))]

    def multipart(self, depth: int) -> list[bytes]:
        chance = self.chance
        boundary = chance.choice(BOUNDARIES)
        told = boundary if chance.random() < 0.9 else chance.choice(BOUNDARIES)
        quoted = f'"{told}"' if chance.random() < 0.7 else told
        parameter = f"; boundary={quoted}" if chance.random() < 0.95 else ""
        lines = [f"Content-Type: multipart/{chance.choice(MULTIPARTS)}{parameter}".encode(), b""]
        if chance.random() < 0.2:
            lines.append(b"preamble")
        delimiter = b"--" + boundary.encode()
        for _ in range(chance.choice([0, 1, 2, 2, 3, 12])):
            lines.append(delimiter + chance.choice([b"", b"", b"", b" ", b"\t "]))
            lines += self.part(depth + 1)
        if chance.random() < 0.8:
            lines.append(delimiter + b"--")
        if chance.random() < 0.2:
            lines += [b"epilogue", delimiter, b"", b"late"]
        return lines


# --- mutations of the corpus


def corpus() -> list[bytes]:
    return [path.read_bytes() for path in sorted(CORPUS.glob("**/*.eml")) if path.stat().st_size < MOST_BYTES]


def mutated(raw: bytes, chance: random.Random, others: list[bytes]) -> bytes:
    """``raw`` with some of its bytes, lines or headers changed, cut, repeated, or taken from another message."""
    for _ in range(chance.choice([1, 1, 2, 4, 8])):
        at = chance.randrange(len(raw) + 1)
        to = min(len(raw), at + chance.choice([1, 1, 4, 40, 400]))
        match chance.randrange(7):
            case 0:
                raw = raw[:at] + bytes(chance.choices(range(256), k=chance.choice([1, 2, 8]))) + raw[to:]
            case 1:
                raw = raw[:at] + raw[to:]
            case 2:
                raw = raw[:at] + raw[at:to] * chance.choice([2, 3, 50]) + raw[to:]
            case 3:
                raw = raw[:at] + chance.choice([*TEXTS, *(v.encode("utf-8", "replace") for v in VALUES)]) + raw[at:]
            case 4:
                lines = raw.split(b"\r\n")
                one, two = chance.randrange(len(lines)), chance.randrange(len(lines))
                lines[one], lines[two] = lines[two], lines[one]
                raw = b"\r\n".join(lines)
            case 5:
                other = chance.choice(others)
                start = chance.randrange(len(other) + 1)
                raw = raw[:at] + other[start : start + 400] + raw[at:]
            case _:
                raw = raw.replace(b"\r\n", chance.choice(BREAKS), chance.choice([-1, 1, 5]))
        if not raw:
            break
    return raw[:MOST_BYTES]


# --- running for a time


def run_for(share: str, build: Callable[[random.Random], bytes], check: Callable[[bytes], None]) -> int:
    """Rounds of hypothesis until the time is up; how many messages were tried."""
    end = time.monotonic() + SECONDS * SHARE[share]
    tried = 0
    # The first round's seed is fixed, so that ``make test`` begins with the same messages every time.
    round_seed = 0 if "FUZZ_SECONDS" not in os.environ else random.SystemRandom().randrange(2**32)
    while time.monotonic() < end:

        @seed(round_seed)
        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        @given(st.randoms(use_true_random=False, note_method_calls=False), st.integers(0, 2**64))
        def attempt(chance: random.Random, own: int) -> None:
            nonlocal tried
            tried += 1
            # Hypothesis draws every choice of ``chance`` itself, which is slow but can be shrunk; most messages are
            # grown from its seed alone, which is quick.
            raw = build(chance if own % 64 == 0 else random.Random(own))
            try:
                check(raw)
            except Exception as error:
                error.add_note(f"message: {raw!r}")
                raise

        attempt()
        round_seed += 1
    return tried


def test_trees_of_parts(record_property: Callable[[str, object], None]) -> None:
    tried = run_for("trees", lambda chance: Grower(chance).message(), must_hold)
    record_property("messages", tried)
    print(f"{tried} messages grown")
    assert tried >= 100


def test_mutations_of_the_corpus(record_property: Callable[[str, object], None]) -> None:
    messages = corpus()
    assert len(messages) > 100
    tried = run_for("corpus", lambda chance: mutated(chance.choice(messages), chance, messages), must_hold)
    record_property("messages", tried)
    print(f"{tried} messages mutated")
    assert tried >= 100


def must_be_readable(raw: bytes) -> None:
    """Header values of all kinds, each through every reader; nothing is raised and no lone surrogate comes out."""
    charset, _, value = raw.partition(b"\0")
    text = decode_text(value, charset.decode("latin-1"))
    for box in parse_addresses(text):
        (box.name + box.address).encode()
    decode_words(text).encode()
    _, parameters = parse_parameters(text)
    "".join(parameters.values()).encode()


def test_header_values(record_property: Callable[[str, object], None]) -> None:
    pieces = [*VALUES, *FILENAMES, "; ", ", ", ": ", "<", ">", '"', "\\", "(", ")", "=?", "?=", "*0*=", "%41", "@"]

    def build(chance: random.Random) -> bytes:
        value = "".join(chance.choices(pieces, k=chance.choice([1, 3, 9, 30])))
        return f"{chance.choice(CHARSETS)}\0{value}".encode()

    tried = run_for("values", build, must_be_readable)
    record_property("values", tried)
    print(f"{tried} values read")
    assert tried >= 100
