"""A call's JSON in parts: cut into pieces and joined again, it is the JSON it always was."""

from __future__ import annotations

import base64

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingress.message import parse
from shared.json_parts import SMALL, Base64, JsonParts, Kind, cut, join

PARTS = st.lists(st.one_of(st.binary(max_size=40), st.builds(Base64, st.binary(max_size=40))), max_size=8)


def whole(parts: list[bytes | Base64]) -> bytes:
    return b"".join(base64.b64encode(part.data) if isinstance(part, Base64) else part for part in parts)


@settings(deadline=None)
@given(PARTS, st.integers(3, 50))
def test_pieces_make_the_call_again(parts: list[bytes | Base64], limit: int) -> None:
    call = JsonParts(parts)
    assert bytes(call) == whole(parts)
    assert len(call) == len(whole(parts))
    pieces = [(kind, bytes(piece)) for kind, piece in cut(call, limit)]
    assert join(pieces) == whole(parts)
    assert all(0 < len(piece) <= limit for _, piece in pieces)


@settings(deadline=None)
@given(st.binary(max_size=100), st.integers(3, 50))
def test_a_call_of_one_piece_is_cut_as_it_is(call: bytes, limit: int) -> None:
    pieces = [(kind, bytes(piece)) for kind, piece in cut(call, limit)]
    assert {kind for kind, _ in pieces} <= {Kind.JSON}
    assert b"".join(piece for _, piece in pieces) == call


def mail(size: int, encoding: str) -> tuple[bytes, bytes]:
    """A message with a file of ``size`` bytes, and the file."""
    content = (bytes(range(32, 126)) * (size // 94 + 1))[:size]
    body = base64.encodebytes(content).replace(b"\n", b"\r\n") if encoding == "base64" else content
    head = (
        "From: a@example.com\r\nSubject: s\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
        "--b\r\n\r\ntext\r\n--b\r\n"
        f"Content-Type: application/pdf; name=a.pdf\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n"
    )
    return head.encode() + body + b"\r\n--b--\r\n", content


@pytest.mark.parametrize("encoding", ["base64", "8bit"])
@pytest.mark.parametrize("size", [100, SMALL, SMALL + 1, 500_000, 500_001, 500_002])
def test_a_large_file_is_held_as_its_bytes_and_posted_as_base64(size: int, encoding: str) -> None:
    raw, content = mail(size, encoding)
    parsed = parse(raw, recipients=("b@x.example",))
    assert isinstance(parsed.body, bytes) == (size <= SMALL)
    assert base64.b64decode(orjson.loads(parsed.call)["attachments"][0]["content"], validate=True) == content
    if not isinstance(parsed.body, bytes):
        held = sum(len(part.data if isinstance(part, Base64) else part) for part in parsed.body.parts)
        assert held < size + 1000
