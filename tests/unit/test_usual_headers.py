"""What is read in a quicker way because most mail has it comes out as the reader of everything reads it."""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingress.message.charsets import decode_text
from ingress.message.headers import decode_words, parse_headers, parse_parameters, usual_fields
from ingress.message.structure import MAX_HEADERS, USUAL_HEADER_BYTES

USUAL = (
    b"Received: from a by b;\r\n Tue, 24 Nov 2026 20:00:00 +0000\r\nFrom: A <a@x.example>\r\nSubject:  s\r\n"
    b"SUBJECT: \r\nX-Own:\r\n\tfolded\r\nTo: J\xc3\xbcrgen <b@x.example>\r\nContent-Type: text/plain; charset=utf-8"
)

PIECES = (
    *(
        "From",
        "Subject",
        "X-Own",
        "x-own",
        "Content-Type",
        "é",
        "\ufeffFrom",
        "--A",
        "a b",
        "Subject ",
        ":",
        ": ",
        ":\t",
    ),
    *("value", "b@x.example", "\r\n", "\r\n", "\r\n", "\r\n ", "\r\n\t", "\n", "\r", "\0", " ", "\t", "\x85", "\u2028"),
)


def test_a_usual_block_is_read_in_the_quick_way() -> None:
    fields = usual_fields(USUAL)
    assert fields is not None
    assert fields[0] == ("received", "Received", "from a by b; Tue, 24 Nov 2026 20:00:00 +0000")
    assert fields[3:6] == [
        ("subject", "SUBJECT", ""),
        ("x-own", "X-Own", "\tfolded"),
        ("to", "To", "Jürgen <b@x.example>"),
    ]
    # In a message the last line's CR stands before the line break that ends it.
    assert (fields, len(USUAL) + 1) == parse_headers(USUAL + b"\r")


@pytest.mark.parametrize(
    "block",
    [
        *(b"", b" fold: first\r\nFrom: a", b"From", b"From: a\r\njunk", b"Subject : a", b"\xef\xbb\xbfFrom: a", b": a"),
        *(
            b"From: a\nTo: b",
            b"From: a\r\n\r\r\nTo: b",
            b"From: a\0",
            b"Subject: caf\xe9",
            b"--A: b",
            b"From: a\r\n--A",
        ),
    ],
)
def test_an_unusual_block_is_left_to_the_reader_of_everything(block: bytes) -> None:
    assert usual_fields(block) is None


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=24).map("".join))
def test_both_readers_find_the_same_fields(text: str) -> None:
    block = f"From: a\r\n{text}".encode()
    fields = usual_fields(block)
    assert fields is None or (fields, len(block) + 1) == parse_headers(block + b"\r")


def test_a_usual_block_holds_fewer_fields_than_are_refused() -> None:
    assert len(b"a:\r\n") * MAX_HEADERS > USUAL_HEADER_BYTES


CHARSETS = ("utf-8''", "utf-8''", "UTF-8'en'", "''", "latin-1''", "x-unknown''", "'", "")
TEXTS = ("a", "41", "%41", "%C3%BC", "%c3", "%", "%4", "%zz", "=", "_", "+", "'", "=?utf-8?q?=C3=BC?=", "é")


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(CHARSETS), st.lists(st.sampled_from(TEXTS), min_size=1, max_size=6).map("".join))
def test_one_parameter_is_read_as_it_is_among_others(charset: str, text: str) -> None:
    """A second parameter takes the way of all that is no usual value."""
    for key in ("filename", "filename*"):
        main, parameters = parse_parameters(f"Attachment; {key}={charset}{text}")
        others_main, others = parse_parameters(f"Attachment; {key}={charset}{text}; x=y")
        assert (main, parameters.get("filename")) == (others_main, others.get("filename"))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(TEXTS), max_size=6).map("".join))
def test_percent_encoding_is_that_of_links(text: str) -> None:
    data = unquote_to_bytes(text)
    found = parse_parameters(f"a/b; x*=latin-1''{text}; y=z")[1]["x"]
    assert found == decode_words(decode_text(data, "latin-1"))
