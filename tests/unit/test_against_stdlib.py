"""Messages that Python's email package writes, read by it and by the relay: where it is right, both read the same."""

from __future__ import annotations

import email
import email.policy
from email.headerregistry import Address
from email.message import EmailMessage
from typing import Any, cast

import orjson
import pybase64
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingress.message import parse
from ingress.message.plain_text import to_html

POLICIES = st.sampled_from(
    [
        email.policy.SMTP,
        email.policy.SMTP.clone(max_line_length=60),
        email.policy.SMTP.clone(cte_type="8bit"),
        email.policy.SMTPUTF8,
        email.policy.SMTPUTF8.clone(max_line_length=200),
    ]
)

SIGNS = st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp", "Cn", "Co"])
"""All but control characters and line separators, of which a header may hold none."""

WORD = st.text(st.one_of(SIGNS, st.sampled_from("aZ9 .,;:()<>@\"'=?_-/[]üß你🎉")), min_size=1, max_size=30)
LINE = WORD.map(lambda text: " ".join(text.split())).filter(lambda text: bool(text) and "=?" not in text)
"""One line without runs of white space, which folding may change, and without what looks like an encoded word."""

TURNING = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
NAME = LINE.filter(lambda text: "@" not in text and not TURNING & set(text) and not set('"\\') & set(text))
"""The relay takes signs that turn the direction around out of names: they are for spoofing."""

FILENAME = LINE.filter(lambda text: not set('"\\/') & set(text) and text.strip("."))
LINES = st.lists(
    st.one_of(st.just(""), st.text(SIGNS, max_size=90), st.just("> " + "long " * 40)), min_size=1, max_size=6
)
BODY = LINES.map("\n".join).filter(lambda text: bool(text.strip()))
ENCODINGS = st.sampled_from([None, "base64", "quoted-printable", "8bit"])
FILE = st.tuples(FILENAME, st.binary(min_size=1, max_size=200), st.sampled_from(["application/pdf", "image/png"]))


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    policy = draw(POLICIES)
    message = EmailMessage(policy=policy)
    message["From"] = Address(draw(NAME), "a", "example.com")
    message["To"] = Address(draw(NAME), "b", "x.example")
    message["Subject"] = draw(LINE)
    kind = draw(st.sampled_from(["plain", "html", "both"]))
    encoding = draw(ENCODINGS)
    if encoding == "8bit" and policy.cte_type == "7bit":
        encoding = None
    if kind != "html":
        message.set_content(draw(BODY), cte=encoding)
    if kind == "html":
        message.set_content(f"<p>{draw(BODY)}</p>", subtype="html", cte=encoding)
    if kind == "both":
        message.add_alternative(f"<p>{draw(BODY)}</p>", subtype="html", cte=encoding)
    for name, data, content_type in draw(st.lists(FILE, max_size=3)):
        main, sub = content_type.split("/")
        message.add_attachment(data, maintype=main, subtype=sub, filename=name)
    for number, part in enumerate(message.walk()):
        if part.is_multipart():
            part.set_boundary(f"==={number}===")
    return message.as_bytes()


def stdlib(raw: bytes) -> dict[str, Any]:
    """What the standard library reads, in the API's terms."""
    message = cast(EmailMessage, email.message_from_bytes(raw, policy=email.policy.default))
    sender, to = message["From"].addresses[0], message["To"].addresses[0]
    body = message.get_body(("html", "plain"))
    assert body is not None
    text = body.get_content().replace("\r\n", "\n")
    call: dict[str, Any] = {
        "from": sender.addr_spec,
        "name": solid(sender.display_name),
        "to": [{"name": solid(to.display_name), "email": to.addr_spec}],
        "subject": folded(str(message["Subject"])),
        "body": text if body.get_content_subtype() == "html" else to_html(text),
    }
    files = [
        {
            "filename": folded(part.get_filename() or ""),
            "contentType": part.get_content_type(),
            "content": pybase64.b64encode_as_string(part.get_content()),
        }
        for part in message.iter_attachments()
    ]
    return call | ({"attachments": files} if files else {})


def folded(text: str) -> str:
    """``text`` without runs of white space; raw UTF-8, which the standard library leaves as surrogates, decoded."""
    return " ".join(text.encode("utf-8", "surrogateescape").decode("utf-8").split())


def solid(text: str) -> str:
    """A name without white space: the standard library leaves some between two encoded words."""
    return folded(text).replace(" ", "")


def ours(raw: bytes) -> dict[str, Any]:
    call: dict[str, Any] = orjson.loads(parse(raw, recipients=["b@x.example"]).call)
    call["subject"] = folded(call["subject"])
    call["name"] = solid(call["name"])
    call["to"][0]["name"] = solid(call["to"][0]["name"])
    call.pop("headers", None)
    for file in call.get("attachments", []):
        file["filename"] = folded(file["filename"])
    return call


@settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
)
@given(messages())
def test_both_read_the_same(raw: bytes) -> None:
    assert ours(raw) == stdlib(raw)
