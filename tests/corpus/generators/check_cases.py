"""Compares expectations of generated messages with what their generator was told to send (``cases.json``).

``python -m tests.corpus.generators.check_cases``: prints each difference; the parser's word counts for nothing here.
"""

from __future__ import annotations

import base64
import email
import email.policy
import hashlib
import json
import re
from pathlib import Path

from tests.support.corpus import FOLDER

CASES = json.loads((Path(__file__).parent / "cases.json").read_text("utf-8"))


def plain(html: str) -> str:
    """The text of our own HTML."""
    html = re.sub(r"<br>\n", "\n", html).replace("</div>\n<div", "</div>\n\0<div")
    html = re.sub(r"\n\0?<div[^>]*>", "\n", html)
    text = re.sub(r"<[^>]+>", "", html).replace("&nbsp;", " ")
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().expandtabs(8).replace("\r\n", "\n").split("\n")]


def differences(name: str, call: dict, case: dict) -> list[str]:
    found = []

    def same(what: str, ours: object, theirs: object) -> None:
        if ours != theirs:
            found.append(f"{name}: {what}: {ours!r} is not {theirs!r}"[:400])

    same("subject", call.get("subject"), case["subject"])
    same("from", (call.get("name", ""), call["from"]), (case["from"]["name"], case["from"]["email"]))
    first = case["to"][0]
    same("to", call["to"], [first if first["name"] else first["email"]])
    same("reply", call.get("reply"), case.get("reply", {}).get("email"))
    if "html" in case:
        same("html", lines(call["body"]), lines(case["html"]))
    else:
        same("text", lines(plain(call["body"])), lines(case["text"]))
    files = [(f, f["cid"]) for f in case.get("inline", [])] + [(f, None) for f in case.get("attachments", [])]
    ours = call.get("attachments", [])
    same("number of files", len(ours), len(files))
    for mine, (theirs, cid) in zip(ours, files, strict=False):
        same("file name", mine["filename"], theirs["filename"])
        same("content type", mine["contentType"].partition(";")[0], theirs["contentType"])
        data = base64.b64decode(theirs["content"])
        if "sha256" in mine:
            same("bytes", mine["sha256"], hashlib.sha256(data).hexdigest())
        else:
            same("bytes", base64.b64decode(mine["content"]), data)
        same(
            "cid",
            (mine.get("contentId"), mine.get("disposition", "attachment")),
            (cid, "inline" if cid else "attachment"),
        )
    # Every header of the message that is not of these must be there, value by value.
    with (FOLDER / f"{name}.eml").open("rb") as stream:
        written = email.message_from_binary_file(stream, policy=email.policy.default)
    fields = {"from", "to", "cc", "subject", "reply-to", "date", "mime-version"}
    kept = {key.lower() for key in written} - fields
    same(
        "header names",
        {key.lower() for key in call.get("headers", {})},
        {k for k in kept if not k.startswith("content-")},
    )
    same(
        "Message-ID",
        next((v for k, v in call.get("headers", {}).items() if k.lower() == "message-id"), None),
        written.get("Message-ID") and str(written["Message-ID"]).strip(),
    )
    headers = {key.lower(): value for key, value in call.get("headers", {}).items()}
    for key, value in case.get("headers", {}).items():
        same(f"header {key}", headers.get(key.lower()), value)
    return found


LIBRARIES = {
    *("django", "dotnet", "email-mime", "email-stuffer", "emailjs", "emails", "flask-mail", "javamail", "mime-entity"),
    *("mime-lite", "mimetext", "nodemailer", "nodemailer-base64", "phpmailer", "phpmailer-qp"),
    *("python-email", "python-email-utf8", "python-mime", "redmail", "ruby-mail"),
    *("swiftmailer", "symfony"),
}

for path in sorted(FOLDER.glob("*.json")):
    library, _, kind = path.stem.rpartition("-")
    if kind in CASES and library in LIBRARIES:
        for difference in differences(path.stem, json.loads(path.read_text("utf-8"))["call"], CASES[kind]):
            print(difference)
