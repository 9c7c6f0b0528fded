"""docs/message.md says what the code does: its tables are read, and each row is tried."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import orjson
import pytest

from ingress.message import Limits, attachments, contents, parse, parser, structure
from ingress.message.addresses import display_name
from ingress.message.control_headers import CONTROL_HEADERS, PREFIX

DOCS = (Path(__file__).parents[2] / "docs" / "message.md").read_text("utf-8")


def rows(heading: str, first_column: str) -> list[list[str]]:
    """Cells of the table below ``heading`` whose first column is named so."""
    section = DOCS.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    table = section.partition(f"| {first_column} |")[2].partition("\n\n")[0].rstrip()
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in table.split("\n")[2:]]


HEADERS = {name: fate for names, fate, _ in rows("Headers", "Header") for name in re.findall(r"`([\w*-]+)`", names)}
PARTS = {name: fate for names, fate, _ in rows("Structure", "Part") for name in re.findall(r"`([\w/.+-]+)`", names)}
VALUES = {
    "From": "Alice <a@example.com>",
    "Sender": "Robot <robot@example.com>",
    "To": "Bob <b@x.example>",
    "Cc": "Bob <b@x.example>",
    "Bcc": "Bob <b@x.example>",
    "Subject": "tried",
    "Reply-To": "tried@example.com",
    "Message-ID": "<tried@example.com>",
    "X-Plunk-Drop": "true",
}


def call(raw: str) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(parse(raw.replace("\n", "\r\n").encode(), recipients=["b@x.example"]).call)
    return found


def with_header(name: str, value: str) -> dict[str, Any]:
    base = {"From": "a@example.com", "Subject": "s", name: value}
    return call("".join(f"{key}: {text}\n" for key, text in base.items()) + "\ntext\n")


def test_the_tables_are_found() -> None:
    assert len(HEADERS) > 40
    assert len(PARTS) > 15


@pytest.mark.parametrize("name", HEADERS)
def test_each_header_becomes_what_the_table_says(name: str) -> None:
    name, fate = name.replace("X-Plunk-*", "X-Plunk-Drop").replace("*", "Tried"), HEADERS[name]
    value = VALUES.get(name, "tried")
    found = with_header(name, value)
    headers = {key.lower(): text for key, text in found.pop("headers", {}).items()}
    if fate == "kept":
        assert headers == {name.lower(): value}
        return
    assert headers == {}
    fields = re.findall(r"`(\w+)`", fate)
    before = with_header("X-Nothing", "")
    before.pop("headers", None)
    changed = {key for key in {*found, *before} if found.get(key) != before.get(key)}
    if fate == "left out":
        assert changed == set()
    else:
        assert changed <= set(fields)
        assert changed
        assert set(fields) <= set(found)


def test_the_table_knows_every_header_that_is_left_out() -> None:
    table = {name.lower() for name, fate in HEADERS.items() if fate != "kept"}
    code = set(parser.STANDARD_HEADERS) | {prefix + "*" for prefix in parser.STANDARD_PREFIXES}
    assert table == code
    kept = {name.lower().rstrip("*") for name, fate in HEADERS.items() if fate == "kept"}
    assert kept >= set(parser.KEPT_FIRST)


NAMES = [
    (form, fate.strip("`"))
    for forms, fate, _ in rows("Headers", "In a name")
    for form in re.findall(r"`([^`]*@[^`]*)`", forms)
]
SIGNS = {
    (int(first, 16), int(last or first, 16)): fate
    for signs, fate, _ in rows("Headers", "In a name")
    for first, last in re.findall(r"U\+([0-9A-F]{4})(?:–U\+([0-9A-F]{4}))?", signs)
}


@pytest.mark.parametrize(("form", "name"), NAMES)
def test_a_name_becomes_what_the_table_says(form: str, name: str) -> None:
    assert with_header("From", form)["name"] == name


def test_the_table_knows_every_sign_that_no_name_keeps() -> None:
    assert len(NAMES) == 4
    table = {
        chr(sign): {"a space": "A B", "taken out": "AB"}[fate]
        for (first, last), fate in SIGNS.items()
        for sign in range(first, last + 1)
    }
    signs = map(chr, (*range(0x30000), *range(0xE0000, 0xE1000)))
    assert table == {sign: shown for sign in signs if (shown := display_name(f"A{sign}B")) != f"A{sign}B"}


@pytest.mark.parametrize("content_type", PARTS)
def test_each_part_becomes_what_the_table_says(content_type: str) -> None:
    found = call(
        "From: a@example.com\nSubject: s\nContent-Type: multipart/mixed; boundary=B\n\n--B\n\nfirst\n"
        f"--B\nContent-Type: {content_type}\n\ntried\n--B--\n"
    )
    if PARTS[content_type] == "text":
        assert "tried" in found["body"]
        assert "attachments" not in found
    else:
        assert PARTS[content_type] == "file"
        assert "tried" not in found["body"]
        [attachment] = found["attachments"]
        assert attachment["contentType"] == content_type


def test_texts_for_programs_are_files_in_the_table() -> None:
    assert {name for name in PARTS if PARTS[name] == "file" and name.startswith("text/")} <= contents.FILE_TEXTS


def test_the_limits_are_the_codes() -> None:
    assert {name: int(number) for name, number, _ in rows("Limits", "Limit")} == {
        "characters of a subject": parser.MAX_SUBJECT,
        "headers in the call": parser.MAX_HEADERS,
        "characters of a header's value": parser.MAX_HEADER_VALUE,
        "characters of a file name": attachments.MAX_FILENAME,
        "characters of a file's type": attachments.MAX_CONTENT_TYPE,
        "attachments": Limits().max_attachments,
        "parts": structure.MAX_PARTS,
        "nested multiparts": structure.MAX_DEPTH,
        "headers of a part": structure.MAX_HEADERS,
        "bytes of a part's headers": structure.MAX_HEADER_BYTES,
        "bytes of the call's JSON": parser.MAX_CALL_BYTES,
    }


def test_the_control_headers_are_the_codes() -> None:
    table = [name.strip("`").lower() for name, _, _ in rows("Control headers", "Header")]
    assert table == list(CONTROL_HEADERS)
    assert all(name.startswith(PREFIX) for name in table)
