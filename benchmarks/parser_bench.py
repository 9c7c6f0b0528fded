"""The message parser beside its peers, all in one run: ``python -m benchmarks.parser_bench [runs]``.

Every peer does the whole way from a message's bytes to the JSON of the API's call: headers, the text to be read, the
attachments in base64. Peers take turns, message after message, and what is compared are medians. Wall time is told
beside CPU time, since another program on the machine lengthens the one more than the other.
"""

from __future__ import annotations

import email
import email.policy
import email.utils
import hashlib
import importlib
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from email.message import EmailMessage, Message
from functools import partial
from pathlib import Path
from typing import Any, Final

import orjson
import pybase64

from ingress.message import parse

SIZES: Final = {"2 KB": 2_000, "200 KB": 200_000, "10 MB": 10_000_000}
"""Messages by about their size in bytes; the largest is just under the relay's limit."""

RUNS: Final = 7
ROUND_SECONDS: Final = 0.15
"""Least time for which one peer parses one message over and over before another takes its turn."""

RECIPIENT: Final = "juergen@recipient.example"
NODE_FOLDER: Final = Path(__file__).parent / "peers" / "parser"

WORDS: Final = (
    *("the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "your", "password", "was", "asked", "to", "be"),
    *("reset", "within", "this", "hour", "please", "follow", "link", "below", "Grüße", "naïve", "façade", "straße"),
)

TARGETS: Final = {"stdlib, policy.default": 15.0, "nodemailer simpleParser": 4.0}
"""How many times faster than a peer the relay's parser is meant to be, at every size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """One turn of one peer: seconds for one message."""

    wall: float
    cpu: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ParserRow:
    """One line of the table: a peer at a size, medians in milliseconds for one message."""

    size: str
    bytes: int
    peer: str
    wall_ms: float
    cpu_ms: float
    ratio: float
    """Median, over the runs, of the peer's wall time by the relay's in the same run."""
    cpu_ratio: float
    """The same of CPU time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParserResults:
    rows: list[ParserRow]
    skipped: list[str]
    """Peers that could not run, each with the reason."""

    def missed(self) -> list[str]:
        """Targets that were not reached in wall time or in CPU time, in words."""
        return [
            f"{row.size}: {row.ratio:.1f} × {row.peer}, meant to be {TARGETS[row.peer]:.0f} ×"
            for row in self.rows
            if row.peer in TARGETS and min(row.ratio, row.cpu_ratio) < TARGETS[row.peer]
        ]


Peer = Callable[[Path, bytes], Timing]
"""Parses a message, which also lies in a file, for at least ``ROUND_SECONDS``."""


class Missing(Exception):
    """A peer cannot run on this machine; the text says what is missing."""


def build_message(size: int, seed: int = 1) -> bytes:
    """A message of about ``size`` bytes as programs write it: text and HTML, and files beside them."""
    chance = random.Random(seed)

    def text(length: int) -> str:
        words: list[str] = []
        while length > 0:
            words.append(chance.choice(WORDS) + ("\n" if chance.random() < 0.08 else ""))
            length -= len(words[-1]) + 1
        return " ".join(words)

    message = EmailMessage(policy=email.policy.SMTP)
    message["Received"] = "from app (app [10.0.0.7]) by mail.example.com with ESMTPSA; Tue, 24 Nov 2026 20:00:00 +0000"
    message["Date"] = "Tue, 24 Nov 2026 20:00:00 +0000"
    message["Message-ID"] = f"<{chance.randrange(10**12)}.7@app.example.com>"
    message["From"] = "Plunk Demo <noreply@example.com>"
    message["To"] = f"Jürgen Müller <{RECIPIENT}>, b@recipient.example"
    message["Reply-To"] = "Support <support@example.com>"
    message["Subject"] = "Grüße – your password for the façade was reset"
    message["List-Unsubscribe"] = "<https://example.com/u/1>"
    message["X-Mailer"] = "Demo 1.0"
    length = min(size // 6, 40_000)
    message.set_content(text(length // 2))
    message.add_alternative(f"<html><body><p>{text(length)}</p></body></html>", subtype="html")
    left = max(0, size - len(message.as_bytes())) * 3 // 4
    for number in range(1 if size < 10_000 else 3):
        data = chance.randbytes(max(64, left // (1 if size < 10_000 else 3) - 300))
        message.add_attachment(data, maintype="application", subtype="pdf", filename=f"Grüße {number}.pdf")
    return message.as_bytes()


def relay_json(raw: bytes) -> bytes:
    return parse(raw, recipients=[RECIPIENT]).call


def policy_default_json(raw: bytes) -> bytes:
    """The standard library's modern interface."""
    message = email.message_from_bytes(raw, policy=email.policy.default)
    body = message.get_body(("html", "plain"))
    sender = message["from"].addresses[0]
    attachments = []
    for part in message.iter_attachments():
        content = part.get_content()
        data = content.encode() if isinstance(content, str) else bytes(content)
        attachments.append(_attachment(part.get_filename(), part.get_content_type(), data))
    return orjson.dumps(
        {
            "from": sender.addr_spec,
            "name": sender.display_name,
            "to": [{"name": box.display_name, "email": box.addr_spec} for box in message["to"].addresses],
            "subject": str(message["subject"]),
            "body": body.get_content() if body is not None else "",
            "reply": str(message["reply-to"].addresses[0].addr_spec),
            "headers": {name: str(message[name]) for name in ("List-Unsubscribe", "X-Mailer", "Message-ID")},
            "attachments": attachments,
        }
    )


def compat32_json(raw: bytes) -> bytes:
    """The standard library's old interface: faster, and everything but the structure is left to its user."""
    message = email.message_from_bytes(raw)
    body, attachments = "", []
    for part in message.walk():
        if part.is_multipart():
            continue
        data = part.get_payload(decode=True)
        assert isinstance(data, bytes)
        if part.get_content_disposition() == "attachment":
            attachments.append(_attachment(_compat32_filename(part), part.get_content_type(), data))
        elif part.get_content_type() == "text/html" or not body:
            body = data.decode(part.get_content_charset("utf-8"), "replace")
    return orjson.dumps(
        {
            "from": email.utils.parseaddr(_words(message["from"])),
            "to": email.utils.getaddresses([_words(message["to"])]),
            "subject": _words(message["subject"]),
            "body": body,
            "reply": email.utils.parseaddr(_words(message["reply-to"]))[1],
            "headers": {name: _words(message[name]) for name in ("List-Unsubscribe", "X-Mailer", "Message-ID")},
            "attachments": attachments,
        }
    )


def _words(value: str) -> str:
    return str(email.header.make_header(email.header.decode_header(value)))


def _compat32_filename(part: Message) -> str:
    return str(email.utils.collapse_rfc2231_value(part.get_filename("")))


def _attachment(filename: str | None, content_type: str, data: bytes) -> dict[str, Any]:
    return {
        "filename": filename,
        "contentType": content_type,
        "content": pybase64.b64encode_as_string(data),
    }


def fast_mail_parser_json(parse_email: Callable[[bytes], Any], raw: bytes) -> bytes:
    """A parser in Rust; addresses stay as they are written."""
    message = parse_email(raw)
    return orjson.dumps(
        {
            "from": message.headers["From"],
            "to": message.headers["To"],
            "subject": message.subject,
            "body": "".join(message.text_html),
            "reply": message.headers["Reply-To"],
            "headers": {name: message.headers[name] for name in ("List-Unsubscribe", "X-Mailer", "Message-ID")},
            "attachments": [_attachment(file.filename, file.mimetype, file.content) for file in message.attachments],
        }
    )


def python_peer(to_json: Callable[[bytes], bytes]) -> Peer:
    def turn(_file: Path, raw: bytes) -> Timing:
        rounds = 0
        cpu, wall = time.process_time(), time.perf_counter()
        while (passed := time.perf_counter() - wall) < ROUND_SECONDS or not rounds:
            to_json(raw)
            rounds += 1
        return Timing(wall=passed / rounds, cpu=(time.process_time() - cpu) / rounds)

    return turn


def node_peer(process: subprocess.Popen[str], *, to_json: bool) -> Peer:
    """nodemailer's simpleParser, in a process that stays; with ``to_json`` False its object alone is the result."""

    def ask(file: Path, rounds: int) -> Timing:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps({"file": str(file), "rounds": rounds, "json": to_json}) + "\n")
        process.stdin.flush()
        answer = json.loads(process.stdout.readline())
        return Timing(wall=answer["wall"], cpu=answer["cpu"])

    def turn(file: Path, _raw: bytes) -> Timing:
        once = ask(file, 1)
        return ask(file, max(1, int(ROUND_SECONDS / max(once.wall, 1e-5))))

    return turn


@contextmanager
def node_process() -> Iterator[subprocess.Popen[str]]:
    """Node with nodemailer's mailparser, installed into the user's cache. Raises ``Missing``."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if not node or not npm:
        raise Missing("nodemailer simpleParser: node and npm are not installed")
    lock = (NODE_FOLDER / "package-lock.json").read_bytes()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "plunk-smtp-bench" / hashlib.sha256(lock).hexdigest()[:16]
    if not (folder / "node_modules" / "mailparser").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(NODE_FOLDER / name, folder)
        done = subprocess.run([npm, "ci", "--no-audit", "--no-fund"], cwd=folder, capture_output=True, text=True)
        if done.returncode:
            raise Missing(f"nodemailer simpleParser: npm ci failed: {done.stderr.strip()[-200:]}")
    command = [node, str(NODE_FOLDER / "simple_parser.js")]
    process = subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(timeout=10)


def find_peers(stack: ExitStack) -> tuple[dict[str, Peer], list[str]]:
    """The relay's parser and every peer that can run here, and the reasons for those that cannot."""
    peers = {
        "relay": python_peer(relay_json),
        "stdlib, policy.default": python_peer(policy_default_json),
        "stdlib, compat32": python_peer(compat32_json),
    }
    skipped = []
    try:
        parse_email = importlib.import_module("fast_mail_parser").parse_email
        peers["fast-mail-parser (Rust)"] = python_peer(partial(fast_mail_parser_json, parse_email))
    except ImportError:
        skipped.append("fast-mail-parser: not installed (pip install fast-mail-parser)")
    try:
        process = stack.enter_context(node_process())
        peers["nodemailer simpleParser"] = node_peer(process, to_json=True)
        peers["nodemailer simpleParser, no JSON"] = node_peer(process, to_json=False)
    except Missing as missing:
        skipped.append(str(missing))
    return peers, skipped


def measure(
    runs: int = RUNS, say: Callable[[str], None] = lambda _: None, sizes: Mapping[str, int] = SIZES
) -> ParserResults:
    """``runs`` interleaved turns of every peer at every size (name → about so many bytes)."""
    rows: list[ParserRow] = []
    with ExitStack() as stack:
        peers, skipped = find_peers(stack)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for size, about in sizes.items():
            raw = build_message(about)
            file = folder / "message.eml"
            file.write_bytes(raw)
            timings: dict[str, list[Timing]] = {name: [] for name in peers}
            for run in range(runs + 1):
                for name, peer in peers.items():
                    timing = peer(file, raw)
                    if run:
                        # The first turn warms up: imports, caches, node's compiler.
                        timings[name].append(timing)
            rows += [_row(size, len(raw), name, found, timings["relay"]) for name, found in timings.items()]
            say("\n".join(map(as_markdown, rows[-len(peers) :])))
    return ParserResults(rows=rows, skipped=skipped)


def _row(size: str, length: int, name: str, found: list[Timing], ours: list[Timing]) -> ParserRow:
    return ParserRow(
        size=size,
        bytes=length,
        peer=name,
        wall_ms=statistics.median(timing.wall for timing in found) * 1000,
        cpu_ms=statistics.median(timing.cpu for timing in found) * 1000,
        ratio=statistics.median(a.wall / b.wall for a, b in zip(found, ours, strict=True)),
        cpu_ratio=statistics.median(a.cpu / b.cpu for a, b in zip(found, ours, strict=True)),
    )


HEADING: Final = "| message | parser | ms | CPU ms | relay is faster, × | by CPU, × |\n|---|---|---:|---:|---:|---:|"


def as_markdown(row: ParserRow) -> str:
    times = f"{row.wall_ms:.3g} | {row.cpu_ms:.3g}"
    return f"| {row.size} | {row.peer} | {times} | {row.ratio:.2f} | {row.cpu_ratio:.2f} |"


def main() -> int:
    print(HEADING, flush=True)
    results = measure(int(sys.argv[1]) if len(sys.argv) > 1 else RUNS, say=lambda line: print(line, flush=True))
    for reason in results.skipped:
        print(f"SKIPPED {reason}")
    missed = results.missed()
    for line in missed:
        print(f"MISSED {line}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
