"""Tenant isolation: nothing is sent as, billed to or seen by another project than the one that is logged in."""

from __future__ import annotations

import base64
import ssl
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

import orjson
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ingress.message import parse
from ingress.replies import SmtpError
from sandbox.plunk_api.schema import complaints
from sandbox.processes import wait_until
from sandbox.stack import DEMO_SECRET, Stack
from tests.support.wire import Wire, simple

TENANTS = {
    "sk_tenant_one_0000000000000000": ("one.example", "shared.example"),
    "sk_tenant_two_1111111111111111": ("two.example", "shared.example"),
    "sk_tenant_three_222222222222222": ("three.example",),
}
"""Secret → domains verified for that project. Two of them have verified the same domain, as the schema allows."""

DOMAINS = ("one.example", "two.example", "three.example", "shared.example", "nobody.example")
SECRETS = (*TENANTS, "sk_wrong", "")


@dataclass
class Model:
    """What one connection may do, kept beside the real one."""

    wire: Wire
    under_tls: bool = False
    greeted: bool = False
    secret: str | None = None
    mail_from: str | None = None
    recipients: list[str] = field(default_factory=list)

    def reset(self) -> None:
        self.mail_from, self.recipients = None, []


Op = tuple[str, str, str]
"""Verb and two arguments; what they mean depends on the verb."""

OPS: st.SearchStrategy[Op] = st.one_of(
    st.tuples(st.just("EHLO"), st.just(""), st.just("")),
    st.tuples(st.just("AUTH"), st.sampled_from(SECRETS), st.sampled_from(["PLAIN", "LOGIN", "cancelled"])),
    st.tuples(st.just("MAIL"), st.sampled_from(DOMAINS), st.just("")),
    st.tuples(st.just("RCPT"), st.sampled_from(["b@x.example", "c@y.example"]), st.just("")),
    st.tuples(st.just("DATA"), st.sampled_from(DOMAINS), st.just("")),
    st.tuples(st.just("whole message"), st.sampled_from(DOMAINS), st.sampled_from(DOMAINS)),
    st.tuples(st.just("own message"), st.integers(0, 1).map(str), st.just("")),
    st.tuples(st.just("own message"), st.integers(0, 1).map(str), st.just("pipelined")),
    st.tuples(st.just("pipelined message"), st.sampled_from(DOMAINS), st.sampled_from(DOMAINS)),
    st.tuples(st.just("RSET"), st.just(""), st.just("")),
    st.tuples(st.just("STARTTLS"), st.just(""), st.just("")),
    st.tuples(st.just("reconnect"), st.just(""), st.just("")),
)


@pytest.fixture(scope="module")
def tenants(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("tenants"), AUTH_MAX_FAILURES="1000") as stack:
        for secret, domains in TENANTS.items():
            stack.add_project(secret, verified=list(domains), unverified=["nobody.example"])
        yield stack


class World:
    """Real connections, their models, and what must arrive of what was sent: subject → (secret, sender's domain)."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.context = ssl.create_default_context(cafile=str(stack.certificates / "fullchain.pem"))
        self.expected: dict[str, tuple[str, str]] = {}
        self.tried: set[str] = set()
        self.open = ExitStack()

    def connect(self) -> Model:
        return Model(self.open.enter_context(Wire(self.stack.port_submission)))

    def play(self, model: Model, op: Op) -> Model:
        verb, first, second = op
        wire = model.wire
        if verb == "reconnect":
            wire.close()
            return self.connect()
        if verb == "EHLO":
            assert wire.say("EHLO client.example").startswith("250")
            model.greeted = True
            model.reset()
        elif verb == "RSET":
            assert wire.say("RSET").startswith("250")
            model.reset()
        elif verb == "STARTTLS":
            if model.under_tls:
                assert wire.say("STARTTLS").startswith("503")
            else:
                wire.start_tls(self.context)
                model.__dict__.update(under_tls=True, greeted=False, secret=None)
                model.reset()
        elif verb == "AUTH":
            self.authenticate(model, first, second)
        elif verb == "MAIL":
            answer = wire.say(f"MAIL FROM:<a@{first}>")
            if self.may_begin(model, first):
                assert answer.startswith("250"), answer
                model.mail_from = first
            else:
                assert answer[0] in "45", answer
        elif verb == "RCPT":
            answer = wire.say(f"RCPT TO:<{first}>")
            assert answer.startswith("250" if model.mail_from else "503"), answer
            if model.mail_from and first not in model.recipients:
                model.recipients.append(first)
        elif verb == "DATA":
            self.data(model, first)
        elif verb == "whole message":
            for op in (("MAIL", first, ""), ("RCPT", "b@x.example", ""), ("DATA", second, "")):
                self.play(model, op)
        elif verb == "own message":
            # A domain of the project that is logged in, so that many messages do go out.
            own = TENANTS.get(model.secret or "", DOMAINS)[-int(first)]
            self.play(model, ("pipelined message" if second else "whole message", own, own))
        elif verb == "pipelined message":
            self.pipelined(model, first, second)
        return model

    def may_begin(self, model: Model, domain: str) -> bool:
        return model.secret is not None and model.mail_from is None and domain in TENANTS[model.secret]

    def authenticate(self, model: Model, secret: str, mechanism: str) -> None:
        wire = model.wire
        allowed = model.greeted and model.under_tls and model.secret is None and model.mail_from is None
        plain = base64.b64encode(f"\0plunk\0{secret}".encode()).decode()
        answer = wire.say(f"AUTH PLAIN {plain}" if mechanism == "PLAIN" else "AUTH LOGIN cGx1bms=")
        if not allowed:
            assert answer[:3] in ("503", "538"), answer
            return
        if mechanism == "cancelled":
            assert answer.startswith("334")
            assert wire.say("*").startswith("501")
            return
        if mechanism == "LOGIN":
            assert answer.startswith("334")
            answer = wire.say(base64.b64encode(secret.encode()).decode() or "=")
        assert answer.startswith("235" if secret in TENANTS else "535"), answer
        if secret in TENANTS:
            model.secret = secret

    def data(self, model: Model, header_domain: str) -> None:
        wire, subject = model.wire, uuid.uuid4().hex
        answer = wire.say("DATA")
        if not model.recipients:
            assert answer.startswith("503"), answer
            return
        assert answer.startswith("354"), answer
        self.tried.add(subject)
        wire.send(simple(subject=subject, sender=f"a@{header_domain}") + b"\r\n.\r\n")
        self.judge(model, header_domain, subject, wire.reply())

    def judge(self, model: Model, header_domain: str, subject: str, answer: str) -> None:
        assert model.secret is not None
        if header_domain in TENANTS[model.secret]:
            assert answer.startswith("250"), answer
            self.expected[subject] = (model.secret, header_domain)
        else:
            assert answer.startswith("550 5.7.1"), answer
        model.reset()

    def pipelined(self, model: Model, domain: str, header_domain: str) -> None:
        """The whole transaction and the next one's beginning in one segment, as no client may but some do."""
        wire, subject = model.wire, uuid.uuid4().hex
        if model.secret is None or model.mail_from is not None or domain not in TENANTS[model.secret]:
            # Without a 354 the message would be read as commands; that is for the fuzzer.
            return
        self.tried.add(subject)
        wire.send(
            f"MAIL FROM:<a@{domain}>\r\nRCPT TO:<p@x.example>\r\nDATA\r\n".encode()
            + simple(subject=subject, sender=f"a@{header_domain}")
            + b"\r\n.\r\nRSET\r\n"
        )
        assert [wire.reply()[:3] for _ in range(3)] == ["250", "250", "354"]
        self.judge(model, header_domain, subject, wire.reply())
        assert wire.reply().startswith("250")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(0, 2), OPS), min_size=5, max_size=50),
    st.lists(st.sampled_from(list(TENANTS)), min_size=3, max_size=3),
)
@example([(0, ("MAIL", "one.example", "")), (0, ("STARTTLS", "", "")), (0, ("DATA", "one.example", ""))], list(TENANTS))
def test_sessions_that_interleave_reset_and_authenticate_again(
    tenants: Stack, played: list[tuple[int, Op]], first_logins: list[str]
) -> None:
    world = World(tenants)
    with world.open:
        models = [world.connect() for _ in range(3)]
        for model, secret in zip(models, first_logins, strict=True):
            # Most sessions begin as clients do, so that what follows reaches far.
            for op in (("STARTTLS", "", ""), ("EHLO", "", ""), ("AUTH", secret, "PLAIN")):
                world.play(model, op)
        for index, op in played:
            models[index] = world.play(models[index], op)
    every.update(world.expected)
    tried.update(world.tried)


every: dict[str, tuple[str, str]] = {}
"""What all examples above had accepted."""
tried: set[str] = set()


def test_everything_went_out_for_the_project_that_was_logged_in(tenants: Stack) -> None:
    assert len(every) > 30, "the property test before this one sent mail"
    wait_until(lambda: not tenants.queued(), timeout=60, what="an empty queue")
    sent = {mail["body"]["subject"]: mail for mail in tenants.api.sent()}
    assert set(sent) == set(every), "all that was accepted, and nothing that was refused"
    ids = {
        row.split("|")[1]: row.split("|")[0]
        for row in tenants.postgres.execute("SELECT id, secret FROM projects").split()
    }
    for subject, (secret, domain) in every.items():
        assert sent[subject]["project"] == ids[secret]
        assert sent[subject]["body"]["from"] == f"a@{domain}"
    assert len(sent) == len(tenants.api.sent()), "none twice"


def test_no_project_sees_anothers_words_in_its_replies(tenants: Stack) -> None:
    (one, two, _) = TENANTS
    context = ssl.create_default_context(cafile=str(tenants.certificates / "fullchain.pem"))
    said: list[str] = []
    for secret, domain in ((one, "two.example"), (two, "one.example"), (two, "three.example")):
        with Wire(tenants.port_secure, tls=context) as wire:
            wire.login(secret)
            said.append(wire.say(f"MAIL FROM:<a@{domain}>"))
    # Verified for another, or for nobody: no difference that would tell who owns a domain.
    with Wire(tenants.port_secure, tls=context) as wire:
        wire.login(one)
        said.append(wire.say("MAIL FROM:<a@unheard-of.example>"))
    assert set(said) == {"550 5.7.1 Sender domain is not verified or not associated with your account"}


# Header From, Sender and Reply-To


def fields(*headers: str) -> dict[str, object]:
    raw = ("\r\n".join(["Subject: s", *headers]) + "\r\n\r\nbody\r\n").encode()
    return orjson.loads(parse(raw, recipients=["b@x.example"]).body)  # type: ignore[no-any-return]


def test_sender_is_left_out_since_the_api_sends_as_from() -> None:
    body = fields("From: a@one.example", "Sender: boss@two.example", "Resent-From: x@two.example", "X-Kept: yes")
    assert body["from"] == "a@one.example"
    assert body["headers"] == {"X-Kept": "yes"}


@pytest.mark.parametrize(
    ("header", "reply"),
    [
        ("Reply-To: anyone@else.example", "anyone@else.example"),
        ("Reply-To: A <x@one.example>, B <y@two.example>", "x@one.example"),
        ("reply-to: not an address, ok@else.example", "ok@else.example"),
        ("Reply-To: undisclosed", None),
    ],
)
def test_reply_to_may_be_any_address_and_is_no_header(header: str, reply: str | None) -> None:
    body = fields("From: a@one.example", header)
    assert body.get("reply") == reply
    assert "headers" not in body


FROMS = [
    ("From: a@one.example, b@two.example", {"one.example", "two.example"}),
    ('From: "a@one.example" <b@two.example>', {"two.example"}),
    ("From: <a@one.example> <b@two.example>", {"one.example", "two.example"}),
    ("From: a@one.example\r\nFrom: b@two.example", {"one.example", "two.example"}),
    ("From: a@one.example\r\nSender: b@two.example", {"one.example"}),
    ("From: group: a@one.example, b@two.example;", {"one.example", "two.example"}),
    ("From: =?utf-8?q?a=40one=2Eexample?= <b@two.example>", {"two.example"}),
    ("From: a@ONE.example (b@two.example)", {"one.example"}),
    ("From: b@two.example\0", {"two.example"}),
    ("From : b@two.example", {"two.example"}),
    ("FROM:\r\n b@two.example", {"two.example"}),
]


@pytest.mark.parametrize(("header", "domains"), FROMS, ids=[repr(header)[:50] for header, _ in FROMS])
def test_every_domain_of_header_from_is_found(header: str, domains: set[str]) -> None:
    raw = f"{header}\r\nSubject: s\r\n\r\nbody".encode()
    assert set(parse(raw, recipients=["b@x.example"]).from_domains) == domains


@pytest.mark.parametrize(
    ("header", "begins"),
    [
        ("From: a@one.example", "250"),
        ("From: a@shared.example\r\nSender: www-data@web1.lan", "250"),
        ("From: a@shared.example\r\nReply-To: x@two.example", "250"),
        ("From: a@one.example, b@two.example", "550 5.7.1"),
        ("From: a@one.example\r\nFrom: b@two.example", "550 5.7.1"),
        ('From: "a@one.example" <b@two.example>', "550 5.7.1"),
        ("From: a@two.example\r\nSender: a@one.example", "550 5.7.1"),
        ("Sender: a@one.example", "550 5.6.0"),
    ],
)
def test_header_from_over_the_wire(tenants: Stack, header: str, begins: str) -> None:
    context = ssl.create_default_context(cafile=str(tenants.certificates / "fullchain.pem"))
    with Wire(tenants.port_secure, tls=context) as wire:
        wire.login(next(iter(TENANTS)))
        raw = f"{header}\r\nSubject: from rules\r\nX-Plunk-Drop: true\r\n\r\nbody".encode()
        assert wire.message(raw, sender="a@one.example").startswith(begins)


# Nothing in a message can put a line into what the API makes of it

NASTY = st.text(alphabet=st.sampled_from(list('ab\r\n\0\t\x0b\x0c\x1b\x85\u2028\u2029"\\<>@,;:=?_ é€')), max_size=20)
ENCODED = st.one_of(
    NASTY,
    NASTY.map(lambda text: f"=?utf-8?b?{base64.b64encode(text.encode()).decode()}?="),
    NASTY.map(lambda text: "=?utf-8?q?" + "".join(f"={byte:02X}" for byte in text.encode()) + "?="),
    NASTY.map(lambda text: "=?utf-7?q?+AA0ACg-" + text + "?="),
)
PERCENT = NASTY.map(lambda text: "utf-8''" + "".join(f"%{byte:02X}" for byte in text.encode()))
LONE = ("subject", "name", "from", "reply", "email", "filename", "contentType", "contentId", "disposition")


def lines_in(value: object, path: str = "") -> list[str]:
    """Paths of every text in ``value``, keys included, that holds what could end a line."""
    if isinstance(value, str):
        return [path] if any(c in value for c in "\r\n\0") else []
    if isinstance(value, dict):
        return [
            found
            for key, item in value.items()
            for found in lines_in(key, f"{path}.<key>") + lines_in(item, f"{path}.{key}")
        ]
    if isinstance(value, list):
        return [found for item in value for found in lines_in(item, path)]
    return []


@settings(max_examples=400, deadline=None)
@given(
    subject=ENCODED, sender_name=ENCODED, to_name=ENCODED, reply=ENCODED, custom_name=NASTY, custom=ENCODED,
    filename=ENCODED, extended=PERCENT, content_id=ENCODED, content_type=NASTY, references=ENCODED, key=NASTY,
)  # fmt: skip
def test_no_field_of_the_json_holds_a_line_break(
    subject: str, sender_name: str, to_name: str, reply: str, custom_name: str, custom: str,
    filename: str, extended: str, content_id: str, content_type: str, references: str, key: str,
) -> None:  # fmt: skip
    raw = (
        f"From: {sender_name} <a@one.example>\r\nTo: {to_name} <b@x.example>\r\nSubject: s{subject}\r\n"
        f"Reply-To: {reply} <r@x.example>\r\nX-{custom_name}: {custom}\r\nReferences: {references}\r\n"
        'Content-Type: multipart/related; boundary="zz"\r\n\r\n'
        "--zz\r\nContent-Type: text/html\r\n\r\n<p>x</p>\r\n"
        f'--zz\r\nContent-Type: image/{content_type}; name="{filename}"\r\nContent-ID: <{content_id}>\r\n'
        f"Content-Disposition: inline; filename*={extended}\r\n\r\nfile\r\n"
        f"--zz\r\nContent-Type: application/pdf\r\nContent-Disposition: attachment; filename={key}\r\n\r\n"
        "file\r\n--zz--\r\n"
    ).encode("utf-8", "surrogatepass")
    try:
        parsed = parse(raw, recipients=["b@x.example"])
    except SmtpError:
        return
    body = orjson.loads(parsed.body)
    assert not [path for path in lines_in(body) if path != ".body"]
    assert not lines_in([parsed.sender, parsed.message_id, parsed.subject, parsed.idempotency_key or ""])
    assert complaints(body) == [], "and the API takes it"


def test_the_demo_secret_is_no_tenants() -> None:
    assert DEMO_SECRET not in TENANTS
