"""Real mail clients against the whole relay: what each sent is compared field by field with what the API got."""

from __future__ import annotations

import base64
import os
import shutil
import smtplib
import ssl
import subprocess
from collections.abc import Callable
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from sandbox.processes import wait_until
from sandbox.stack import DEMO_SECRET, Stack
from tests.support.requirements import requires_npm_package, requires_program

FILE = bytes(range(256)) * 40


def text_message() -> EmailMessage:
    message = EmailMessage()
    message["From"] = "Alice <alice@example.com>"
    message["To"] = "Bob <bob@x.example>"
    message["Reply-To"] = "reply@example.com"
    message["Subject"] = "Plain text"
    message["X-Kind"] = "text"
    message.set_content("First line\n  indented\nhttps://x.example/?a=1&b=2\n.leading dot\n")
    return message


def html_message() -> EmailMessage:
    message = EmailMessage()
    message["From"] = "alice@example.com"
    message["To"] = "bob@x.example"
    message["Subject"] = "HTML and a file"
    message.set_content("Text")
    message.add_alternative("<p>HTML</p>", subtype="html")
    message.add_attachment(FILE, maintype="application", subtype="octet-stream", filename="report.bin")
    return message


def utf8_message() -> EmailMessage:
    message = EmailMessage()
    message["From"] = "Zoë Ångström <alice@example.com>"
    message["To"] = "Jürgen 山田 <bob@x.example>"
    message["Subject"] = "Grüße aus Köln — 你好 🎉"
    message.set_content("Schöne Grüße\n你好 🎉\n")
    return message


EXPECTED: list[tuple[Callable[[], EmailMessage], dict[str, Any]]] = [
    (
        text_message,
        {
            "from": "alice@example.com",
            "name": "Alice",
            "to": [{"name": "Bob", "email": "bob@x.example"}],
            "subject": "Plain text",
            "body": "<div>First line<br>\n&nbsp;&nbsp;indented<br>\n"
            '<a href="https://x.example/?a=1&amp;b=2">https://x.example/?a=1&amp;b=2</a><br>\n.leading dot</div>',
            "reply": "reply@example.com",
            "headers": {"X-Kind": "text"},
        },
    ),
    (
        html_message,
        {
            "from": "alice@example.com",
            "to": ["bob@x.example"],
            "subject": "HTML and a file",
            "body": "<p>HTML</p>\n",
            "attachments": [
                {
                    "filename": "report.bin",
                    "content": base64.b64encode(FILE).decode(),
                    "contentType": "application/octet-stream",
                }
            ],
        },
    ),
    (
        utf8_message,
        {
            "from": "alice@example.com",
            "name": "Zoë Ångström",
            "to": [{"name": "Jürgen 山田", "email": "bob@x.example"}],
            "subject": "Grüße aus Köln — 你好 🎉",
            "body": "<div>Schöne Grüße<br>\n你好 🎉</div>",
        },
    ),
]

MESSAGES = pytest.mark.parametrize(("make", "expected"), EXPECTED, ids=["text", "html", "utf8"])


def assert_arrived(stack: Stack, expected: dict[str, Any], *, own_headers: tuple[str, ...] = ("message-id",)) -> None:
    """One mail arrived, and every field of it is as expected; ``own_headers`` are those that the client adds."""
    wait_until(lambda: stack.api.sent(), timeout=30, what="the mail")
    mails = stack.api.sent()
    assert len(mails) == 1
    body = mails[0]["body"]
    headers = {name: value for name, value in body.get("headers", {}).items() if name.lower() not in own_headers}
    body["headers"] = headers
    assert body == {"headers": {}, **expected}
    assert len(mails[0]["idempotency_key"]) == 32


def trusting(stack: Stack) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(stack.certificates / "fullchain.pem"))


@MESSAGES
@pytest.mark.parametrize("way", ["starttls", "ssl"])
def test_smtplib(relay: Stack, make: Callable[[], EmailMessage], expected: dict[str, Any], way: str) -> None:
    client: smtplib.SMTP
    if way == "ssl":
        client = smtplib.SMTP_SSL("localhost", relay.port_secure, timeout=30, context=trusting(relay))
    else:
        client = smtplib.SMTP("localhost", relay.port_submission, timeout=30)
        client.starttls(context=trusting(relay))
    with client:
        client.login("PLUNK", DEMO_SECRET)
        client.send_message(make())
    assert_arrived(relay, expected)


@MESSAGES
def test_smtplib_in_plain_text(plain_relay: Stack, make: Callable[[], EmailMessage], expected: dict[str, Any]) -> None:
    with smtplib.SMTP("localhost", plain_relay.port_submission, timeout=30) as client:
        client.login("plunk", DEMO_SECRET)
        client.send_message(make())
    assert_arrived(plain_relay, expected)


def run(command: list[str], *, stdin: bytes = b"", environ: dict[str, str] | None = None) -> None:
    """Run a client to its end; fails with what it printed."""
    finished = subprocess.run(
        command, input=stdin, capture_output=True, check=False, timeout=60, env={**os.environ, **(environ or {})}
    )
    assert finished.returncode == 0, (finished.stdout + finished.stderr).decode("utf-8", "replace")[-3000:]


@MESSAGES
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_swaks(
    relay: Stack, tmp_path: Path, make: Callable[[], EmailMessage], expected: dict[str, Any], mechanism: str
) -> None:
    program = requires_program("swaks")
    (tmp_path / "message").write_bytes(make().as_bytes())
    run(
        [
            *(program, "--server", f"localhost:{relay.port_submission}", "--tls"),
            *("--auth", mechanism, "--auth-user", "plunk", "--auth-password", DEMO_SECRET),
            *("--from", "alice@example.com", "--to", "bob@x.example", "--data", f"@{tmp_path / 'message'}"),
        ]
    )
    assert_arrived(relay, expected)


@MESSAGES
@pytest.mark.parametrize("way", ["starttls", "ssl"])
def test_curl(
    relay: Stack, tmp_path: Path, make: Callable[[], EmailMessage], expected: dict[str, Any], way: str
) -> None:
    program = requires_program("curl")
    (tmp_path / "message").write_bytes(make().as_bytes().replace(b"\n", b"\r\n"))
    url = f"smtps://localhost:{relay.port_secure}" if way == "ssl" else f"smtp://localhost:{relay.port_submission}"
    run(
        [
            *(program, "--silent", "--show-error", "--ssl-reqd", "--noproxy", "*", url),
            *("--cacert", str(relay.certificates / "fullchain.pem"), "--user", f"plunk:{DEMO_SECRET}"),
            *("--mail-from", "alice@example.com", "--mail-rcpt", "bob@x.example"),
            *("--upload-file", str(tmp_path / "message")),
        ]
    )
    assert_arrived(relay, expected)


@MESSAGES
def test_msmtp(relay: Stack, make: Callable[[], EmailMessage], expected: dict[str, Any]) -> None:
    program = requires_program("msmtp")
    run(
        [
            *(program, "--host=localhost", f"--port={relay.port_submission}", "--auth=login", "--user=plunk"),
            *(f"--passwordeval=echo {DEMO_SECRET}", "--tls=on", "--tls-starttls=on"),
            *(f"--tls-trust-file={relay.certificates / 'fullchain.pem'}", "--from=alice@example.com", "bob@x.example"),
        ],
        stdin=make().as_bytes(),
    )
    assert_arrived(relay, expected)


NODEMAILER = """
const nodemailer = require('nodemailer');
const [port, secret, raw] = process.argv.slice(2);
const transport = nodemailer.createTransport({host: 'localhost', port: +port, requireTLS: true,
  auth: {user: 'plunk', pass: secret}, tls: {rejectUnauthorized: false}});
transport.sendMail(JSON.parse(raw)).then(() => process.exit(0), error => { console.error(error); process.exit(1); });
"""


@pytest.fixture(scope="module")
def nodemailer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nodemailer")
    requires_npm_package("nodemailer@7", folder)
    (folder / "send.js").write_text(NODEMAILER)
    return folder


def test_nodemailer_with_an_inline_image(relay: Stack, nodemailer: Path) -> None:
    import orjson

    mail = {
        "from": "Zoë <alice@example.com>",
        "to": "Jürgen <bob@x.example>",
        "subject": "Grüße 🎉",
        "text": "Text",
        "html": '<p>Schön <img src="cid:logo@x"></p>',
        "attachments": [
            {"filename": "logo.png", "content": "iVBORw==", "encoding": "base64", "cid": "logo@x"},
            {"filename": "Übersicht für Zoë.pdf", "content": "JVBERg==", "encoding": "base64"},
        ],
    }
    command = [shutil.which("node") or "node", "send.js", str(relay.port_submission), DEMO_SECRET]
    finished = subprocess.run(
        [*command, orjson.dumps(mail).decode()], cwd=nodemailer, capture_output=True, check=False, timeout=60
    )
    assert finished.returncode == 0, finished.stderr.decode()
    assert_arrived(
        relay,
        {
            "from": "alice@example.com",
            "name": "Zoë",
            "to": [{"name": "Jürgen", "email": "bob@x.example"}],
            "subject": "Grüße 🎉",
            "body": '<p>Schön <img src="cid:logo@x"></p>',
            "attachments": [
                {
                    "filename": "logo.png",
                    "content": "iVBORw==",
                    "contentType": "image/png",
                    "contentId": "logo@x",
                    "disposition": "inline",
                },
                {"filename": "Übersicht für Zoë.pdf", "content": "JVBERg==", "contentType": "application/pdf"},
            ],
        },
    )
