"""Writes a message that was made by hand beside what it must become, which was written before the parser was asked."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from tests.support.corpus import FOLDER, LONG_CONTENT

HEAD = "From: a@example.com\nTo: bob@x.example\nSubject: s\n"
MIME = HEAD + "MIME-Version: 1.0\n"
PLAIN = {"from": "a@example.com", "to": ["bob@x.example"], "subject": "s"}


def raw_bytes(raw: str | bytes) -> bytes:
    data = raw.encode() if isinstance(raw, str) else raw
    return data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


def good(name: str, raw: str | bytes, call: dict[str, Any], *, exact: bool = False, **beside: Any) -> None:
    """``call`` lacks what ``PLAIN`` says; None takes a field away. ``exact``: line breaks are as in ``raw``."""
    data = raw.encode() if isinstance(raw, str) else raw
    (FOLDER / f"{name}.eml").write_bytes(data if exact else raw_bytes(raw))
    whole = {key: value for key, value in {**PLAIN, **call}.items() if value is not None}
    text = json.dumps({**beside, "call": whole}, ensure_ascii=False, indent=2)
    (FOLDER / f"{name}.json").write_text(text + "\n", "utf-8")


def refused(name: str, raw: str | bytes, reply: str) -> None:
    (FOLDER / f"{name}.eml").write_bytes(raw_bytes(raw))
    (FOLDER / f"{name}.refusal").write_text(reply + "\n", "utf-8")


def b64(data: bytes | str) -> str:
    return base64.b64encode(data.encode() if isinstance(data, str) else data).decode()


def wrapped(data: bytes | str, width: int = 76) -> str:
    text = b64(data)
    return "\n".join(text[at : at + width] for at in range(0, len(text), width))


def file(name: str, data: bytes | str, kind: str = "application/pdf", cid: str = "") -> dict[str, Any]:
    content = data.encode() if isinstance(data, str) else data
    found: dict[str, Any] = {"filename": name, "contentType": kind}
    if len(b64(content)) <= LONG_CONTENT:
        found["content"] = b64(content)
    else:
        found |= {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return found | ({"contentId": cid, "disposition": "inline"} if cid else {})


def div(text: str) -> str:
    return f"<div>{text}</div>"


PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
PDF = b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n%%EOF\n"
ICS = (
    "BEGIN:VCALENDAR\r\nPRODID:-//Example//EN\r\nVERSION:2.0\r\nMETHOD:REQUEST\r\nBEGIN:VEVENT\r\nUID:1@example.com\r\n"
    "DTSTAMP:20261124T200000Z\r\nDTSTART:20261201T090000Z\r\nSUMMARY:Planning\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n"
)
