"""The parser: from MIME as it occurs to the API's JSON."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingress.message import Limits, ParsedMessage, parse
from ingress.message.addresses import Mailbox, display_name, parse_addresses
from ingress.message.headers import decode_words, parse_parameters
from ingress.message.plain_text import to_html
from ingress.replies import SmtpError


def read(raw: str | bytes, **limits: int) -> ParsedMessage:
    data = raw.encode() if isinstance(raw, str) else raw
    return parse(data.replace(b"\n", b"\r\n"), recipients=["b@x.example"], limits=Limits(**limits))


def fields(raw: str | bytes, **limits: int) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(read(raw, **limits).call)
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
        ("(Alice) <a@x.example>", [("Alice", "a@x.example")]),
        ("<a@x.example> (Alice)", [("Alice", "a@x.example")]),
        ("root (Cron Daemon) <a@x.example>", [("root (Cron Daemon)", "a@x.example")]),
        ('A (of (our) shop) "B" <a@x.example>', [("A (of (our) shop) B", "a@x.example")]),
        ("Alice <a@x.example> (away) (till May)", [("Alice (away) (till May)", "a@x.example")]),
        ("Alice <a(work)@x.example>", [("Alice", "a@x.example")]),
        ("A (1) <a@x.example> B <b@x.example> (2)", [("A (1)", "a@x.example"), ("B (2)", "b@x.example")]),
        ("Alice (=?utf-8?q?K=C3=B6ln?=) <a@x.example>", [("Alice (Köln)", "a@x.example")]),
        ("Team: a@x.example, B <b@x.example>;", [("", "a@x.example"), ("B", "b@x.example")]),
        ("=?utf-8?q?J=C3=BCrgen?= <j@x.example>", [("Jürgen", "j@x.example")]),
        ('"=?utf-8?b?SsO8cmdlbg==?=" <j@x.example>', [("Jürgen", "j@x.example")]),
        ("undisclosed-recipients:;", []),
        ("", []),
    ],
)
def test_addresses(value: str, expected: list[tuple[str, str]]) -> None:
    assert parse_addresses(value) == [Mailbox(name=name, address=address) for name, address in expected]


KEPT = (
    *("\xa0", "\xad", "\u034f", "\u200b", "\u200c", "\u200d", "\u200e", "\u200f", "\u2060", "\ufe0f", "\ufeff"),
    # Private use, a tag, not assigned yet, and a face that Python 3.11 and 3.13 do not know alike.
    *("\ue000", "\U000e0067", "\u0378", "\U0001fae9"),
)
TAKEN_OUT = (*"\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\x80\x84\x86\x9f", "\ud800", "\udfff")
SPACES = (*"\0\x01\t\n\r\x0b\x0c\x1b\x1f\x7f\x85\u2028\u2029",)


@pytest.mark.parametrize(
    ("sign", "shown"),
    [
        *((sign, f"A{sign}B") for sign in KEPT),
        *((sign, "AB") for sign in TAKEN_OUT),
        *((sign, "A B") for sign in SPACES),
    ],
    ids=ascii,
)
def test_a_name_keeps_what_it_is_written_with(sign: str, shown: str) -> None:
    assert display_name(f"A{sign}B") == shown


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


@pytest.mark.parametrize("raw", ["", "\n", "\n \n", "Content-Type: multipart/mixed; boundary=A\n\n--A\n\n--A--\n"])
def test_a_mail_that_says_all_in_its_subject_has_an_empty_line(raw: str) -> None:
    assert fields(HEAD + raw)["body"] == "<div><br></div>"


@pytest.mark.parametrize("declared", ["pdf", "application/", ";", "; charset=a", "/", "text/", "a b/c"])
def test_a_file_whose_type_is_none_is_bytes(declared: str) -> None:
    part = f"--A\nContent-Type: {declared}\nContent-Disposition: attachment\n\nx\n--A--\n"
    [file] = fields(HEAD + "Content-Type: multipart/mixed; boundary=A\n\n--A\n\ntext\n" + part)["attachments"]
    assert (file["contentType"], file["filename"].partition(".")[0]) == ("application/octet-stream", "attachment-1")


def test_a_file_that_says_no_type_is_text() -> None:
    part = "--A\nContent-Disposition: attachment; filename=a\n\nx\n--A--\n"
    [file] = fields(HEAD + "Content-Type: multipart/mixed; boundary=A\n\n--A\n\ntext\n" + part)["attachments"]
    assert file["contentType"] == "text/plain"


CALENDAR = "BEGIN:VCALENDAR\nMETHOD:REQUEST\nEND:VCALENDAR\n"
INVITED = (
    HEAD
    + "Content-Type: multipart/mixed; boundary=A\n\n--A\nContent-Type: multipart/alternative; boundary=B\n\n"
    + "--B\n\ntext\n--B\nContent-Type: text/calendar; method=REQUEST{}\n\n"
    + CALENDAR
    + "\n--B--\n--A\n{}\n\n{}\n--A--\n"
)


@pytest.mark.parametrize(
    ("invitation", "file", "content", "names"),
    [
        ("", "Content-Type: application/ics; name=i.ics", CALENDAR, {"i.ics": "text/calendar; method=REQUEST"}),
        (
            "; name=m.ics",
            "Content-Type: text/calendar; name=i.ics",
            CALENDAR,
            {"i.ics": "text/calendar; method=REQUEST"},
        ),
        ("; name=m.ics", "Content-Type: application/ics", CALENDAR, {"m.ics": "text/calendar; method=REQUEST"}),
        ("", "Content-Type: a/b; name=I.ICS", CALENDAR.strip(), {"I.ICS": "text/calendar; method=REQUEST"}),
        # Another calendar, and no calendar at all.
        (
            "",
            "Content-Type: application/ics; name=i.ics",
            CALENDAR + "X",
            {"attachment-1.ics": "text/calendar; method=REQUEST", "i.ics": "application/ics"},
        ),
        (
            "",
            "Content-Type: application/x-log; name=i.log",
            CALENDAR,
            {"attachment-1.ics": "text/calendar; method=REQUEST", "i.log": "application/x-log"},
        ),
    ],
)
def test_an_invitation_written_twice_is_sent_once(
    invitation: str, file: str, content: str, names: dict[str, str]
) -> None:
    files = fields(INVITED.format(invitation, file, content))["attachments"]
    assert {one["filename"]: one["contentType"] for one in files} == names
    assert len(files) == len(names)


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
    body = orjson.loads(found.call)
    assert (found.idempotency_key, found.drop) == ("k-1", True)
    assert body["template"] == "7a0c9a52-0000-4000-8000-000000000001"
    assert body["data"] == {"a": 1}
    assert body["subscribed"] is True
    assert "headers" not in body


PDF = "--A\nContent-Type: application/pdf\n\nx\n"
REFUSED = [
    ("Subject: s\n\nt", "550 5.6.0 From header"),
    ("From: nobody\nSubject: s\n\nt", "550 5.6.0 From header"),
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
        assert orjson.loads(found.call)["from"] == found.sender


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_a_refusal(raw: bytes) -> None:
    try:
        parse(b"From: a@example.com\r\nSubject: s\r\n" + raw, recipients=["b@x.example"])
    except SmtpError as refused:
        assert refused.reply.code in (550, 552, 554)  # noqa: PT017
