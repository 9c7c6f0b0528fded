"""The parser: from MIME as it occurs to the API's JSON."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingress.message import Limits, ParsedMessage, parse
from ingress.message.addresses import Mailbox, parse_addresses
from ingress.message.headers import decode_words, parse_parameters
from ingress.message.plain_text import to_html
from ingress.replies import SmtpError


def read(raw: str | bytes, **limits: int) -> ParsedMessage:
    data = raw.encode() if isinstance(raw, str) else raw
    return parse(data.replace(b"\n", b"\r\n"), recipients=["b@x.example"], limits=Limits(**limits))


def fields(raw: str | bytes, **limits: int) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(read(raw, **limits).body)
    return found


HEAD = "From: a@example.com\nSubject: s\n"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a@x.example", [("", "a@x.example")]),
        ("Alice <a@x.example>", [("Alice", "a@x.example")]),
        ('"alice@evil" <bob@y.example>', [("alice@evil", "bob@y.example")]),
        ("alice@evil <bob@y.example>", [("alice@evil", "bob@y.example")]),
        ('"Last, First" <a@x.example>, b@x.example', [("Last, First", "a@x.example"), ("", "b@x.example")]),
        ("a@x.example (Alice)", [("Alice", "a@x.example")]),
        ("Team: a@x.example, B <b@x.example>;", [("", "a@x.example"), ("B", "b@x.example")]),
        ("=?utf-8?q?J=C3=BCrgen?= <j@x.example>", [("Jürgen", "j@x.example")]),
        ('"=?utf-8?b?SsO8cmdlbg==?=" <j@x.example>', [("Jürgen", "j@x.example")]),
        ("undisclosed-recipients:;", []),
        ("", []),
    ],
)
def test_addresses(value: str, expected: list[tuple[str, str]]) -> None:
    assert parse_addresses(value) == [Mailbox(name=name, address=address) for name, address in expected]


def test_many_addresses_are_read_in_one_pass() -> None:
    assert len(parse_addresses(", ".join(f"N {n} <n{n}@x.example>" for n in range(20_000)))) == 20_000


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("=?utf-8?Q?Gr=C3=BC=C3=9Fe?=", "Grüße"),
        ("=?UTF-8?b?8J+Oig==?= =?utf-8?q?_x?=", "🎊 x"),
        ("=?utf-8?b?8J8=?= =?utf-8?b?joo=?=", "🎊"),
        ("=?iso-8859-1?q?caf=E9?= bar", "café bar"),
        ("=?x-unknown?q?abc?=", "abc"),
        ("plain", "plain"),
        ("=?utf-8?q?broken", "=?utf-8?q?broken"),
    ],
)
def test_encoded_words(value: str, expected: str) -> None:
    assert decode_words(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ('attachment; filename="a b.pdf"', "a b.pdf"),
        ("attachment; filename=a b.pdf", "a b.pdf"),
        ("attachment; filename*=utf-8''%C3%A4.pdf", "ä.pdf"),
        ("attachment; filename*0=a; filename*1=b.pdf", "ab.pdf"),
        ("attachment; filename*0*=utf-8''%C3%A4; filename*1=b.pdf", "äb.pdf"),
        ('attachment; filename="=?utf-8?q?=C3=A4.pdf?="', "ä.pdf"),
        ('attachment; filename="ä.pdf"', "ä.pdf"),
    ],
)
def test_file_names(value: str, expected: str) -> None:
    assert parse_parameters(value) == ("attachment", {"filename": expected})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\nb", "a<br>\nb"),
        ("  a  b", "&nbsp;&nbsp;a&nbsp; b"),
        ("<script>", "&lt;script&gt;"),
        (
            "<https://x.example/r?a=1&b=2>",
            '&lt;<a href="https://x.example/r?a=1&amp;b=2">https://x.example/r?a=1&amp;b=2</a>&gt;',
        ),
        ("see https://x.example/a.", 'see <a href="https://x.example/a">https://x.example/a</a>.'),
        ('https://x.example/"onclick=', '<a href="https://x.example/">https://x.example/</a>"onclick='),
        ('{{ name | default: "x" }}', '{{ name | default: "x" }}'),
    ],
)
def test_plain_text_becomes_html(text: str, expected: str) -> None:
    assert to_html(text) == f"<div>{expected}</div>"


def test_the_richest_alternative_is_taken_and_inline_images_keep_their_id() -> None:
    body = fields(
        HEAD + "Content-Type: multipart/alternative; boundary=A\n\n--A\n\ntext\n--A\n"
        "Content-Type: multipart/related; boundary=B\n\n--B\nContent-Type: text/html\n\n<img src=cid:i@x>\n--B\n"
        "Content-Type: image/png; name=i.png\nContent-Transfer-Encoding: base64 \nContent-ID: <i@x>\n\niVBO\nRw==\n"
        "--B--\n--A--\n"
    )
    assert body["body"] == "<img src=cid:i@x>"
    assert body["attachments"] == [
        {
            "filename": "i.png",
            "content": "iVBORw==",
            "contentType": "image/png",
            "contentId": "i@x",
            "disposition": "inline",
        }
    ]


def test_all_texts_of_a_mixed_message_reach_the_reader_in_order() -> None:
    body = fields(
        HEAD
        + "Content-Type: multipart/mixed; boundary=A\n\npreamble\n--A\nContent-Type: text/html\n\n<p>1</p>\n--A\n\n2\n"
        "--A\nContent-Type: application/pdf\n\nx\n--A\n\n3\n--A--\nepilogue\n"
    )
    assert body["body"] == "<p>1</p>\n<div>2</div>\n<div>3</div>"
    assert len(body["attachments"]) == 1


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("Content-Type: multipart/mixed\n\nno boundary\n", "no boundary"),
        ("Content-Type: multipart/mixed; boundary=A\n\n--A\n\nno end\n", "no end"),
        ("Content-Type: multipart/mixed; boundary=A\n\n--AB\n\nnever begins\n", "--AB<br>\n<br>\nnever begins"),
        ("Content-Type: nonsense\n\ntext\n", "text"),
        (
            "Content-Type: text/plain; charset=iso-8859-1\nContent-Transfer-Encoding: quoted-printable\n\ncaf=E9=\n!\n",
            "café!",
        ),
        ("Content-Transfer-Encoding: base64\n\ndGV4*dA\n", "text"),
        ("Content-Type: text/plain; format=flowed\n\none \ntwo\n> a \n> b\n", "one two<br>\n&gt; a b"),
        ("\ncaf\u00e9\n", "café"),
    ],
)
def test_bodies(raw: str, expected: str) -> None:
    assert fields(HEAD + raw)["body"] == f"<div>{expected}</div>"


def test_latin_1_without_a_charset_is_guessed() -> None:
    assert fields(HEAD.encode() + b"\ncaf\xe9\n")["body"] == "<div>café</div>"


def test_files_and_no_text_are_a_scanners_mail() -> None:
    body = fields(HEAD + "Content-Type: application/pdf; name=s.pdf\n\nx\n")
    assert body["body"] == "<div><br></div>"
    assert body["attachments"][0]["filename"] == "s.pdf"


def test_custom_headers_are_kept_and_standard_ones_are_not() -> None:
    long = "y" * 999
    body = fields(HEAD + f"X-A: 1\nX-A: 2\nMessage-ID: <m@x>\nReceived: r\nX-Long: {long}\nIn-Reply-To: <p@x>\n\nt\n")
    assert body["headers"] == {"X-A": "1, 2", "Message-ID": "<m@x>", "In-Reply-To": "<p@x>"}


def test_more_than_50_headers_lose_no_mail() -> None:
    assert len(fields(HEAD + "".join(f"X-{n}: v\n" for n in range(80)) + "\nt\n")["headers"]) == 50


def test_a_subject_with_a_line_break_inside_is_one_line() -> None:
    assert fields("From: a@example.com\nSubject: =?utf-8?q?a=0D=0AX-Evil:_1?=\n\nt\n")["subject"] == "a X-Evil: 1"


def test_control_headers_are_taken_out() -> None:
    found = read(
        "From: a@example.com\nX-Plunk-Template: 7a0c9a52-0000-4000-8000-000000000001\n"
        'X-Plunk-Data: {"a": 1}\nX-Plunk-Subscribed: true\nX-Plunk-Idempotency-Key: k-1\nX-Plunk-Drop: yes\n\n'
    )
    body = orjson.loads(found.body)
    assert (found.idempotency_key, found.drop) == ("k-1", True)
    assert body["template"] == "7a0c9a52-0000-4000-8000-000000000001"
    assert body["data"] == {"a": 1}
    assert body["subscribed"] is True
    assert "headers" not in body


PDF = "--A\nContent-Type: application/pdf\n\nx\n"
REFUSED = [
    ("Subject: s\n\nt", "550 5.6.0 From header"),
    ("From: nobody\nSubject: s\n\nt", "550 5.6.0 From header"),
    (HEAD + "\n \n", "550 5.6.0 Body is required"),
    (HEAD + "X-Plunk-Template: x\n\nt", "550 5.6.0 X-Plunk-Template"),
    (HEAD + "X-Plunk-Subscribed: maybe\n\nt", "550 5.6.0 X-Plunk-Subscribed"),
    (
        HEAD + "Content-Type: multipart/mixed; boundary=A\n\n" + PDF * 11 + "--A--\n",
        "552 5.3.4 Too many attachments: 11",
    ),
    (HEAD + "Content-Type: multipart/mixed; boundary=A\n\n" + "--A\n\nx\n" * 1001, "554 5.6.0 Message is too complex"),
    (HEAD + "".join(f"X-{n}: v\n" for n in range(2001)) + "\nt", "554 5.6.0 Message is too complex"),
    ("X-A: " + "x" * 1_100_000, "554 5.6.0 Message is too complex"),
]


@pytest.mark.parametrize(("raw", "begins"), REFUSED, ids=[begins for _, begins in REFUSED])
def test_refusals(raw: str, begins: str) -> None:
    with pytest.raises(SmtpError) as refused:
        read(raw)
    assert str(refused.value.reply).startswith(begins)


def test_nesting_is_bounded() -> None:
    raw = HEAD
    for depth in range(60):
        raw += f"Content-Type: multipart/mixed; boundary=B{depth}\n\n--B{depth}\n"
    with pytest.raises(SmtpError):
        read(raw + "\nx\n")


def test_attachments_that_are_too_large_are_told_with_numbers() -> None:
    raw = HEAD + "Content-Type: multipart/mixed; boundary=A\n\n--A\nContent-Type: a/b\n\n" + "x" * 2000 + "\n--A--\n"
    with pytest.raises(SmtpError) as refused:
        read(raw, max_attachment_bytes=1000)
    assert str(refused.value.reply) == "552 5.3.4 Attachments too large: 2668 bytes in base64, at most 1333"


LINES = st.sampled_from(
    [
        *(
            "From: a@example.com",
            'From: "x" <',
            "Subject: =?utf-8?b?8J8=?=",
            "Subject: s",
            "To: (((",
            "",
            " ",
            "--A",
            "--A--",
        ),
        *(
            "Content-Type: multipart/mixed; boundary=A",
            'Content-Type: text/html; charset="utf-7',
            "Content-Type: ;;=;*0*=x",
        ),
        *(
            "Content-Transfer-Encoding: base64",
            "Content-Transfer-Encoding: quoted-printable",
            "====",
            "\0\ud7ff",
            "+AGE-",
        ),
        *(
            "Content-Disposition: attachment; filename*=utf-16''%D8%00",
            "X-Plunk-Data: {",
            "References: <a>",
            "\r",
            "<p>x",
        ),
    ]
)


@settings(max_examples=600, deadline=None)
@given(st.lists(st.one_of(LINES, st.text(max_size=20)), max_size=30))
def test_anything_is_a_message_or_a_refusal(lines: list[str]) -> None:
    raw = "\n".join(lines).encode("utf-8", "surrogatepass")
    try:
        found = parse(raw, recipients=["b@x.example"])
    except SmtpError as refused:
        assert refused.reply.code in (550, 552, 554)  # noqa: PT017
    else:
        assert orjson.loads(found.body)["from"] == found.sender


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_a_refusal(raw: bytes) -> None:
    try:
        parse(b"From: a@example.com\r\nSubject: s\r\n" + raw, recipients=["b@x.example"])
    except SmtpError as refused:
        assert refused.reply.code in (550, 552, 554)  # noqa: PT017
