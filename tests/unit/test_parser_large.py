"""Texts and files of megabytes go through the parser in pieces; where they are cut must not be seen."""

from __future__ import annotations

import base64
import quopri
from typing import Any

import orjson
import pytest

from ingress.message import Limits, parse
from ingress.message.chunks import CHUNK, line_chunks, text_chunks
from ingress.message.plain_text import to_html

LINE = "Größe „naïve“ 🎉 日本語 <b>x</b> & so on\n"
HTML = LINE * (3 * CHUNK // len(LINE.encode()))
HEAD = b"From: a@example.com\r\nSubject: s\r\n"


def call(headers: str, body: bytes) -> dict[str, Any]:
    limits = Limits(max_attachment_bytes=50_000_000)
    found: dict[str, Any] = orjson.loads(
        parse(HEAD + headers.encode() + b"\r\n\r\n" + body, recipients=["b@x.example"], limits=limits).call
    )
    return found


def wire(text: str, charset: str = "utf-8") -> bytes:
    return text.replace("\n", "\r\n").encode(charset)


@pytest.mark.parametrize("charset", ["utf-8", "utf-16", "gb18030", "utf-7"])
def test_html_in_base64(charset: str) -> None:
    body = base64.encodebytes(wire(HTML, charset))
    headers = f"Content-Type: text/html; charset={charset}\r\nContent-Transfer-Encoding: base64"
    assert call(headers, body)["body"] == HTML


def test_html_in_quoted_printable() -> None:
    body = quopri.encodestring(HTML.encode()).replace(b"\n", b"\r\n")
    headers = "Content-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable"
    assert call(headers, body)["body"] == HTML


def test_html_in_8bit_beside_a_file() -> None:
    file = bytes(range(256)) * (2 * CHUNK // 256)
    body = (
        b"--A\r\nContent-Type: text/html; charset=utf-8\r\n\r\n"
        + wire(HTML)
        + b"\r\n--A\r\nContent-Type: a/b\r\nContent-Transfer-Encoding: base64\r\n\r\n"
        + base64.encodebytes(file).replace(b"\n", b"\r\n")
        + b"\r\n--A--\r\n"
    )
    found = call("Content-Type: multipart/mixed; boundary=A", body)
    assert found["body"] == HTML
    assert base64.b64decode(found["attachments"][0]["content"], validate=True) == file


def test_a_wrong_byte_in_utf_8_changes_nothing_else() -> None:
    at = len(HTML) // 2
    body = wire(HTML[:at]) + b"\xe9" + wire(HTML[at:])
    assert call("Content-Type: text/html; charset=utf-8", body)["body"] == HTML[:at] + "é" + HTML[at:]


def test_bare_carriage_returns() -> None:
    text = "x" * 99 + "\r"
    assert call("Content-Type: text/html", text.encode() * (CHUNK // 25))["body"] == text.replace("\r", "\n") * (
        CHUNK // 25
    )


def test_plain_text_keeps_every_line() -> None:
    text = "\n".join(f"line {n}" + "\n" * (n % 4) for n in range(CHUNK // 5))
    found = call("Content-Type: text/plain", text.encode())["body"]
    assert found.count("<div>") > 1
    assert found.replace("</div>\n<div>", "<br>\n") == to_html(text)


def test_one_line_without_an_end() -> None:
    assert call("Content-Type: text/plain; charset=utf-8", b"x" * (2 * CHUNK))["body"].count("x") == 2 * CHUNK
    body = call("Content-Transfer-Encoding: quoted-printable", b"=C3=A9" * CHUNK)["body"]
    assert body.count("é") == CHUNK


@pytest.mark.parametrize("data", [b"", b"a", b"a\n", b"\n" * (3 * CHUNK), b"a" * (3 * CHUNK), b"ab\r\n" * CHUNK])
def test_chunks_lose_nothing(data: bytes) -> None:
    chunks = list(line_chunks(data))
    assert b"".join(chunks) == data
    assert all(chunk.endswith(b"\n") for chunk in chunks[:-1])
    text = data.decode()
    assert "\n".join(text_chunks(text)) == text
