"""The reply table: codes that fit their enhanced codes, lines that fit the wire, docs that list every row."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ingress.replies import Replies, Reply, one_line

DOCS = Path(__file__).parents[2] / "docs" / "smtp-replies.md"


@pytest.mark.parametrize("row", Replies, ids=lambda row: row.name)
def test_code_and_enhanced_code_agree(row: Replies) -> None:
    reply = row.value
    assert 200 <= reply.code <= 599
    if reply.enhanced:
        assert re.fullmatch(r"[245]\.\d{1,3}\.\d{1,3}", reply.enhanced)
        # RFC 2034 section 4: the class of the enhanced code is the reply code's first digit.
        assert reply.enhanced[0] == str(reply.code)[0]
    else:
        assert reply.code in (220, 354), "only the greeting and 354 go without an enhanced code"


@pytest.mark.parametrize("row", Replies, ids=lambda row: row.name)
def test_every_reply_is_one_line_of_the_wire(row: Replies) -> None:
    names = re.findall(r"{(\w+)}", row.value.text)
    filled = row.value.filled(**dict.fromkeys(names, "x\r\n250 injected " + "y" * 2000))
    line = filled.encode()
    assert line.endswith(b"\r\n")
    assert line.count(b"\r") == line.count(b"\n") == 1
    assert len(line) <= 512
    assert line.isascii()


@pytest.mark.parametrize("row", Replies, ids=lambda row: row.name)
def test_the_docs_list_every_reply(row: Replies) -> None:
    reply = row.value
    wanted = f"| {reply.code} | {reply.enhanced or '—'} | `{reply.text}` |"
    assert wanted in DOCS.read_text(encoding="utf-8"), f"docs/smtp-replies.md lacks {wanted}"


def test_the_docs_list_nothing_else() -> None:
    documented = re.findall(r"^\| (\d{3}) \| (\S+) \| `(.+?)` \|", DOCS.read_text(encoding="utf-8"), re.M)
    known = {(str(r.value.code), r.value.enhanced or "—", r.value.text) for r in Replies}
    assert set(documented) == known


def test_control_characters_never_start_a_line() -> None:
    assert one_line("a\r\n\x00\x85\u2028b") == "a" + " " * 5 + "b"
    assert Reply(250, "2.0.0", "é").encode() == b"250 2.0.0 ?\r\n"
