"""nodemailer's mailparser over the corpus: where it reads otherwise, a line of a file says why ours is right."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import tomllib
from typing import Any

import orjson
import pytest

from ingress.message import parse
from tests.support.corpus import FOLDER, load, names
from tests.support.html_reader import Reader
from tests.support.requirements import requires_npm_package, requires_program

VERSION = "3.14.2"


def folded(text: str) -> str:
    """White space told apart no further: HTML does not."""
    return re.sub(r"\s+", " ", text).strip()


def lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip("\n").expandtabs(8).split("\n")]


def is_ours(html: str) -> bool:
    """Whether the body was plain text: every tag of it is one of the relay's own."""
    return html.startswith("<div") and re.search(r"<(?!/?(?:div|br|a)\b)", html) is None


def ours(call: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """What the relay reads, in mailparser's terms."""
    body = call.get("body", "").removesuffix("<div><br></div>")
    read: dict[str, Any] = {
        "subject": call.get("subject", ""),
        "from": call["from"],
        "name": call.get("name", ""),
        "reply": call.get("reply", ""),
        "body": folded(body),
        "attachments": [
            {
                # A name that the relay made up is none.
                "filename": re.sub(r"^attachment-\d+(\.\w+)?$", "", one["filename"]),
                "contentType": one["contentType"].partition(";")[0],
                "contentId": one.get("contentId", ""),
                "sha256": hashlib.sha256(base64.b64decode(one["content"])).hexdigest(),
            }
            for one in call.get("attachments", [])
        ],
    }
    if not theirs["html"] and is_ours(body):
        read["body"] = lines(Reader(body).text)
    return read


def mailparsers(theirs: dict[str, Any], read: dict[str, Any]) -> dict[str, Any]:
    found = {key: theirs[key] for key in ("subject", "from", "name", "reply", "attachments")}
    as_text = isinstance(read["body"], list)
    found["body"] = lines(theirs["text"]) if as_text else folded(theirs["html"] or theirs["text"])
    if not any(one["contentId"] for one in read["attachments"]):
        # It tells the Content-ID of every file; the relay passes on that of files that the text shows.
        found["attachments"] = [{**one, "contentId": ""} for one in found["attachments"]]
    return found


@pytest.fixture(scope="module")
def mailparser(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """By the corpus's names, what mailparser reads."""
    folder = tmp_path_factory.mktemp("mailparser")
    requires_npm_package(f"mailparser@{VERSION}", folder)
    finished = subprocess.run(
        [requires_program("node"), str(FOLDER / "mailparser.cjs"), *(str(FOLDER / f"{name}.eml") for name in names())],
        cwd=folder,
        capture_output=True,
        check=False,
        timeout=100,
    )
    assert finished.returncode == 0, finished.stderr.decode()
    found: dict[str, dict[str, Any]] = json.loads(finished.stdout)
    return found


@pytest.mark.extra
def test_every_disagreement_is_explained_and_every_explanation_needed(mailparser: dict[str, dict[str, Any]]) -> None:
    explained: dict[str, dict[str, str]] = tomllib.loads((FOLDER / "disagreements.toml").read_text("utf-8"))
    assert all(reason.strip() for fields in explained.values() for reason in fields.values())
    unexplained: list[str] = []
    stale = {(name, field) for name, fields in explained.items() for field in fields}
    compared = 0
    for name in names():
        example = load(name)
        if example.refusal:
            continue
        call = orjson.loads(parse(example.raw, recipients=example.recipients).call)
        read = ours(call, mailparser[name])
        other = mailparsers(mailparser[name], read)
        compared += 1
        for field, value in read.items():
            if value == other[field]:
                continue
            if field in explained.get(name, {}):
                stale.discard((name, field))
            else:
                unexplained.append(f"{name}.{field}: ours {value!r}, mailparser's {other[field]!r}"[:700])
    assert not unexplained, "\n".join(unexplained)
    assert not stale
    assert compared > 150
