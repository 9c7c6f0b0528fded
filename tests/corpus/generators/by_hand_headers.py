"""Headers: encoded words, addresses, file names, duplicates, what stays and what goes, control headers, refusals.

``python -m tests.corpus.generators.by_hand_headers`` writes ``NAME.eml`` and ``NAME.json`` or ``NAME.refusal``.
"""

from __future__ import annotations

from tests.corpus.generators.writing import HEAD, MIME, PDF, PLAIN, div, file, good, refused, wrapped

TEXT = {"body": div("text")}
TO = "To: bob@x.example\n"
FROM = "From: a@example.com\n"


def subject(name: str, raw: str | bytes, expected: str) -> None:
    """A message with that raw Subject."""
    value = raw if isinstance(raw, bytes) else raw.encode()
    good(f"subject-{name}", (FROM + TO).encode() + b"Subject:" + value + b"\n\ntext\n", {"subject": expected, **TEXT})


# ---------------------------------------------------------------- encoded words (RFC 2047)

subject("words-of-one-character-split", " =?utf-8?b?8J8=?= =?utf-8?b?joo=?= party", "🎊 party")
subject(
    "words-of-two-charsets",
    " =?utf-8?q?Gr=C3=BC?= =?iso-8859-1?q?=DFe?= =?utf-8?b?IA==?= =?koi8-r?b?0NLJ18XU?=",
    "Grüße привет",
)
subject("words-folded-by-tabs", " =?UTF-8?Q?One_?=\n\t=?UTF-8?Q?two_?=\n =?UTF-8?Q?three?=", "One two three")
subject("words-in-odd-case", " =?Utf-8?B?R3LDvMOfZQ==?= =?UTF-8?q?_=c3=bc?=", "Grüße ü")
subject("words-glued-to-text", " Re:=?utf-8?q?=C3=BC?=x (=?utf-8?q?=C3=A4?=)", "Re:üx (ä)")
subject("words-in-quotes", ' "=?utf-8?q?=C3=BC?="', '"ü"')
subject("words-with-spaces-inside", " =?utf-8?Q?Gr=C3=BC=C3=9Fe aus K=C3=B6ln?=", "Grüße aus Köln")
subject("words-without-padding", " =?utf-8?B?R3LDvMOfZQ?=", "Grüße")
subject("words-with-a-language", " =?utf-8*de?Q?Gr=C3=BC=C3=9Fe?=", "Grüße")
subject("words-that-never-end", " =?utf-8?q?abc", "=?utf-8?q?abc")
subject("words-of-an-unknown-charset", " =?x-nowhere?q?Gr=C3=BC=C3=9Fe?=", "Grüße")
subject(
    "words-in-iso-2022-jp", " =?ISO-2022-JP?B?GyRCRnxLXDhsGyhC?= =?ISO-2022-JP?B?GyRCJE43b0w+GyhC?=", "日本語の件名"
)
subject(
    "words-in-gb2312-that-are-gbk",
    " =?gb2312?B?" + __import__("base64").b64encode("朱镕基".encode("gbk")).decode() + "?=",
    "朱镕基",
)
subject("raw-utf-8", " Grüße 🎉", "Grüße 🎉")
subject("raw-latin-1", " Grüße".encode("latin-1"), "Grüße")
subject("with-an-encoded-line-break", " =?utf-8?q?a=0D=0ABcc:_x@y.example?=", "a Bcc: x@y.example")
subject("folded", " one\n two\n\tthree", "one two\tthree".replace("\t", " "))
subject("long", " " + "word " * 199 + "end", "word " * 199 + "end")
subject("with-a-template", ' Hello {{ name ?? "you" }}', 'Hello {{ name ?? "you" }}')
good(
    "subject-name-with-a-space-before-the-colon",
    FROM + TO + "Subject : spaced\nX-Spaced  :  value \n\ntext\n",
    {"subject": "spaced", "headers": {"X-Spaced": "value"}, **TEXT},
)

# ---------------------------------------------------------------- addresses


def sender(name: str, raw: str | bytes, address: str, shown: str | None, **beside: object) -> None:
    """A message with that raw From."""
    value = raw if isinstance(raw, bytes) else raw.encode()
    message = b"From: " + value + b"\nTo: bob@x.example\nSubject: s\n\ntext\n"
    good(f"from-{name}", message, {"from": address, "name": shown, **TEXT}, **beside)


sender("angle-address-wins", '"alice@evil.example" <bob@example.com>', "bob@example.com", "alice@evil.example")
sender("angle-address-wins-unquoted", "alice@evil.example <bob@example.com>", "bob@example.com", "alice@evil.example")
sender("comment", "bob@example.com (Bob (the) Builder)", "bob@example.com", "Bob (the) Builder")
sender("quoted-encoded-word", '"=?utf-8?B?SsO8cmdlbg==?= Groß" <j@example.com>', "j@example.com", "Jürgen Groß")
sender(
    "encoded-word-with-a-comma", "=?utf-8?q?M=C3=BCller=2C_J=C3=B6rg?= <j@example.com>", "j@example.com", "Müller, Jörg"
)
sender("raw-latin-1", "Jörg Müller <j@example.com>".encode("latin-1"), "j@example.com", "Jörg Müller")
sender("folded", "A very long name\n of two lines\n <a@example.com>", "a@example.com", "A very long name of two lines")
sender("escaped-quotes", '"O\'Neil, \\"Al\\" \\\\ Co" <al@example.com>', "al@example.com", 'O\'Neil, "Al" \\ Co')
sender("group", "Team: Alice <alice@example.com>, bob@example.com;", "alice@example.com", "Alice")
sender(
    "several",
    "Alice <alice@example.com>, Carol <carol@unverified.example>",
    "alice@example.com",
    "Alice",
    from_domains=["example.com", "unverified.example"],
)
sender("domain-in-upper-case", "Alice <Alice@EXAMPLE.COM>", "Alice@example.com", "Alice")
sender("idn-domain", "j@bücher.example", "j@xn--bcher-kva.example", None, from_domains=["xn--bcher-kva.example"])
sender("source-route", "Alice <@relay.example:alice@example.com>", "alice@example.com", "Alice")
sender("joiners-in-the-name", "👩\u200d💻 نرم\u200cافزار <a@example.com>", "a@example.com", "👩\u200d💻 نرم\u200cافزار")
sender(
    "direction-overrides-in-the-name", "=?utf-8?b?4oCuZXZpbOKArA==?= Bob <a@example.com>", "a@example.com", "evil Bob"
)
sender(
    "emoji-flag-and-unseen-signs-in-the-name",
    # A face of Unicode 15 and one of Unicode 16, a flag of tag characters, marks of direction, a soft hyphen and a word joiner.
    "\U0001fae8\U0001fae9 \U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f \u200fשלום\u200e Fuß\u00adball Shop\u2060ify"
    " <a@example.com>",
    "a@example.com",
    "\U0001fae8\U0001fae9 \U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f \u200fשלום\u200e Fuß\u00adball Shop\u2060ify",
)
sender(
    "comments-beside-a-name",
    'Zoe (of (our) shop) "Q." <zoe@example.com> (on holiday)',
    "zoe@example.com",
    "Zoe (of (our) shop) Q. (on holiday)",
)
sender(
    "control-characters-in-the-name", "=?utf-8?q?Al=0D=0Aice=00?= <alice@example.com>", "alice@example.com", "Al ice"
)

good(
    "to-names-from-to-and-cc",
    FROM
    + 'To: "Groß, Jürgen" <BOB@x.example>, undisclosed: hidden@y.example;\nCc: Carol <carol@x.example>, dave@x.example\n'
    "Bcc: Eve <eve@x.example>\nSubject: s\n\ntext\n",
    {
        "to": [
            {"name": "Groß, Jürgen", "email": "bob@x.example"},
            {"name": "Carol", "email": "carol@x.example"},
            "dave@x.example",
            # Header Bcc is not read: not even a name comes from it.
            "eve@x.example",
        ],
        **TEXT,
    },
    recipients=["bob@x.example", "carol@x.example", "dave@x.example", "eve@x.example"],
)
good(
    "to-undisclosed",
    FROM + "To: undisclosed-recipients:;\nSubject: s\n\ntext\n",
    {"to": ["bob@x.example"], **TEXT},
)
good("to-missing", FROM + "Subject: s\n\ntext\n", {"to": ["bob@x.example"], **TEXT})
good(
    "reply-to-several",
    HEAD + "Reply-To: First <first@y.example>, second@y.example\nReply-To: third@y.example\n\ntext\n",
    {"reply": "first@y.example", **TEXT},
)
good(
    "reply-to-first-that-is-an-address",
    HEAD + "Reply-To: nobody, Group: =?utf-8?q?J=C3=B6?= <jo@bücher.example>;\n\ntext\n",
    {"reply": "jo@xn--bcher-kva.example", **TEXT},
)
good("subject-says-it-all", HEAD + "\n \n", {"body": div("<br>")})
good("reply-to-nobody", HEAD + "Reply-To: <>\n\ntext\n", TEXT)

# ---------------------------------------------------------------- which headers stay

good(
    "headers-kept-and-not",
    """Return-Path: <bounce@example.com>
Received: from a.example by b.example;
 Tue, 24 Nov 2026 20:00:00 +0000
DKIM-Signature: v=1; a=rsa-sha256; d=example.com; b=abc
ARC-Seal: i=1; a=rsa-sha256; cv=none
ARC-Authentication-Results: i=1; example.com
Authentication-Results: example.com; spf=pass
Received-SPF: pass
Resent-From: x@y.example
Delivered-To: bob@x.example
From: a@example.com
Sender: Robot <robot@example.com>
To: bob@x.example
Subject: s
Date: Tue, 24 Nov 2026 20:00:00 +0000
Message-ID: <kept@example.com>
MIME-Version: 1.0
Content-Type: text/plain; charset=utf-8
Content-Language: en
In-Reply-To: <parent@example.com>
References: <root@example.com>
 <parent@example.com>
List-Unsubscribe: <mailto:u@example.com>
List-Unsubscribe-Post: List-Unsubscribe=One-Click
Auto-Submitted: auto-generated
Precedence: bulk
Importance: high
Priority: urgent
X-Priority: 1 (Highest)
X-MSMail-Priority: High
X-Mailer: Example 1.0
User-Agent: Example/2
Organization: =?utf-8?q?Gr=C3=BC=C3=9Fe_GmbH?=
Disposition-Notification-To: a@example.com
Return-Receipt-To: a@example.com
Feedback-ID: 1:2:example
X-Auto-Response-Suppress: All
X-Empty:
Keywords: one, two
Comments: a remark

text
""",
    {
        "headers": {
            "Message-ID": "<kept@example.com>",
            "In-Reply-To": "<parent@example.com>",
            "References": "<root@example.com> <parent@example.com>",
            "List-Unsubscribe": "<mailto:u@example.com>",
            "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
            "Auto-Submitted": "auto-generated",
            "Precedence": "bulk",
            "Importance": "high",
            "Priority": "urgent",
            "X-Priority": "1 (Highest)",
            "X-MSMail-Priority": "High",
            "X-Mailer": "Example 1.0",
            "User-Agent": "Example/2",
            "Organization": "Grüße GmbH",
            "Disposition-Notification-To": "a@example.com",
            "Feedback-ID": "1:2:example",
            "X-Auto-Response-Suppress": "All",
            "Keywords": "one, two",
            "Comments": "a remark",
        },
        **TEXT,
    },
    message_id="<kept@example.com>",
)
good(
    "headers-twice",
    HEAD + "Subject: second\nX-Tag: one\nx-tag: two\nReferences: <a@x.example>\nReferences: <b@x.example>\n\ntext\n",
    {"headers": {"X-Tag": "one, two", "References": "<a@x.example> <b@x.example>"}, **TEXT},
)
good(
    "headers-more-than-50",
    HEAD + "".join(f"X-N-{n}: {n}\n" for n in range(60)) + "In-Reply-To: <p@x.example>\n\ntext\n",
    {"headers": {"In-Reply-To": "<p@x.example>", **{f"X-N-{n}": str(n) for n in range(49)}}, **TEXT},
)
IDS = [f"<message-{n:03}@mail.example.com>" for n in range(60)]
good(
    "headers-too-long-values",
    HEAD + "References: " + "\n ".join(IDS) + f"\nX-Long: {'y' * 999}\nX-Fits: {'z' * 998}\n\ntext\n",
    # 998 characters hold the first id and the newest 31: 30 + 31 * 31 = 991.
    {"headers": {"References": " ".join([IDS[0], *IDS[-31:]]), "X-Fits": "z" * 998}, **TEXT},
)
good(
    "headers-begin-with-a-byte-order-mark",
    b"\xef\xbb\xbf" + (HEAD + "\ntext\n").encode(),
    TEXT,
)
good("headers-after-blank-lines", "\n \n" + HEAD + "X-A: 1\n\ntext\n", {"headers": {"X-A": "1"}, **TEXT})
good(
    "headers-with-junk-lines",
    "From a@example.com Tue Nov 24 20:00:00 2026\nFrom: a@example.com\nthis is no header\nTo: bob@x.example\n"
    "Subject: s\nX-A: 1\n\ntext\n",
    {"headers": {"X-A": "1"}, **TEXT},
)
good(
    "headers-folded-with-blank-looking-lines",
    HEAD + "X-A: one\n  \n two\n\ntext\n",
    {"headers": {"X-A": "one   two"}, **TEXT},
)
good(
    "headers-in-odd-case",
    "FROM: a@example.com\nTO: bob@x.example\nsubject: s\nCONTENT-TYPE: TEXT/HTML\n\n<p>x</p>\n",
    {"body": "<p>x</p>\n"},
)
good(
    "header-of-10000-characters-folded",
    FROM + "To: " + ",\n ".join(f"Person {n} <p{n}@x.example>" for n in range(360)) + "\nSubject: s\n\ntext\n",
    {"to": [{"name": "Person 7", "email": "p7@x.example"}, {"name": "Person 299", "email": "p299@x.example"}], **TEXT},
    recipients=["p7@x.example", "p299@x.example"],
)

# ---------------------------------------------------------------- file names


def named(name: str, header: str | bytes, expected: str, *, kind: str = "application/pdf") -> None:
    """A message with one file; ``header`` is all of its Content-Type and Content-Disposition."""
    lines = header if isinstance(header, bytes) else header.encode()
    good(
        f"file-name-{name}",
        (MIME + "Content-Type: multipart/mixed; boundary=A\n\n--A\n\ntext\n--A\n").encode()
        + lines
        + f"\nContent-Transfer-Encoding: base64\n\n{wrapped(PDF)}\n--A--\n".encode(),
        {"attachments": [file(expected, PDF, kind)], **TEXT},
    )


TYPE = "Content-Type: application/pdf\nContent-Disposition: attachment; "
named("rfc-2231", TYPE + "filename*=utf-8'de'%C3%9Cbersicht%20%E2%82%AC.pdf", "Übersicht €.pdf")
named("rfc-2231-latin-1", TYPE + "filename*=iso-8859-1''%DCbersicht.pdf", "Übersicht.pdf")
named(
    "rfc-2231-continued-out-of-order",
    TYPE + "filename*1*=%20%C3%9C;\n filename*2=\"bersicht.pdf\"; filename*0*=utf-8''Die",
    "Die Übersicht.pdf",
)
named("rfc-2231-character-split", TYPE + "filename*0*=utf-8''%C3; filename*1*=%9C.pdf", "Ü.pdf")
named(
    "rfc-2231-beside-plain", TYPE + "filename=\"?bersicht.pdf\"; filename*=utf-8''%C3%9Cbersicht.pdf", "Übersicht.pdf"
)
named("encoded-words", TYPE + 'filename="=?UTF-8?Q?=C3=9Cber?=\n =?UTF-8?Q?sicht=2Epdf?="', "Übersicht.pdf")
named("raw-utf-8", TYPE + 'filename="Übersicht.pdf"', "Übersicht.pdf")
named("raw-latin-1", (TYPE + 'filename="Übersicht.pdf"').encode("latin-1"), "Übersicht.pdf")
named("unquoted-with-spaces", TYPE + "filename=My big (final) report.pdf; size=3", "My big (final) report.pdf")
named("windows-path", TYPE + r'filename="C:\\Documents\\report.pdf"', "report.pdf")
named("unix-path", TYPE + 'filename="../../etc/report.pdf"', "report.pdf")
named("with-quotes", TYPE + r'filename="the \"best\" one.pdf"', "the 'best' one.pdf")
named("with-a-semicolon", TYPE + 'filename="a;b=c.pdf"', "a;b=c.pdf")
named("with-line-breaks", TYPE + "filename*=utf-8''a%0D%0Ab%00.pdf", "a b .pdf")
named("only-in-the-type", 'Content-Type: application/pdf; name="report.pdf"', "report.pdf")
named(
    "differs-between-headers",
    'Content-Type: application/pdf; name="old.pdf"\nContent-Disposition: attachment; filename="new.pdf"',
    "new.pdf",
)
named("missing", "Content-Type: application/pdf", "attachment-1.pdf")
named("of-slashes", TYPE + 'filename="///"', "attachment-1.pdf")
named("too-long", TYPE + f'filename="{"x" * 300}.pdf"', "x" * 251 + ".pdf")
named("emoji", TYPE + "filename*=utf-8''%F0%9F%8E%89.pdf", "🎉.pdf")
named(
    "type-of-nonsense",
    'Content-Type: pdf\nContent-Disposition: attachment; filename="a.pdf"',
    "a.pdf",
    kind="application/octet-stream",
)
named("type-without-a-subtype", 'Content-Type: application/; name="a.pdf"', "a.pdf", kind="application/octet-stream")

# ---------------------------------------------------------------- control headers

TEMPLATE = "7a0c9a52-0000-4000-8000-000000000001"
good(
    "control-template",
    FROM + TO + f'X-Plunk-Template: {TEMPLATE}\nX-Plunk-Data: {{"name": "=?utf-8?q?J=C3=BCrgen?=",\n "n": [1, 2]}}\n\n',
    {"subject": None, "template": TEMPLATE, "data": {"name": "Jürgen", "n": [1, 2]}},
)
good(
    "control-subscribed-key-and-drop",
    HEAD + "X-Plunk-Subscribed: FALSE\nX-Plunk-Idempotency-Key: order-4711\nx-plunk-drop: true\n\ntext\n",
    {"subscribed": False, **TEXT},
    idempotency_key="order-4711",
    drop=True,
)
refused(
    "refused-control-template",
    HEAD + "X-Plunk-Template: welcome\n\ntext\n",
    "550 5.6.0 X-Plunk-Template: must be a template's UUID",
)
refused("refused-control-data", HEAD + "X-Plunk-Data: [1]\n\ntext\n", "550 5.6.0 X-Plunk-Data: must be a JSON object")
refused(
    "refused-control-drop", HEAD + "X-Plunk-Drop: perhaps\n\ntext\n", "550 5.6.0 X-Plunk-Drop: must be true or false"
)

# ---------------------------------------------------------------- refusals

refused("refused-no-from", TO + "Subject: s\n\ntext\n", "550 5.6.0 From header is missing or holds no address")
refused(
    "refused-from-without-address",
    "From: Alice\n" + TO + "Subject: s\n\ntext\n",
    "550 5.6.0 From header is missing or holds no address",
)
refused("refused-no-subject", FROM + TO + "\ntext\n", "550 5.6.0 Subject is required")
refused(
    "refused-subject-too-long",
    FROM + TO + f"Subject: {'x' * 999}\n\ntext\n",
    "550 5.6.0 Subject is longer than 998 characters",
)
FILE = "--A\nContent-Type: application/pdf\n\nx\n"
refused(
    "refused-11-files",
    MIME + "Content-Type: multipart/mixed; boundary=A\n\n" + FILE * 11 + "--A--\n",
    "552 5.3.4 Too many attachments: 11, at most 10",
)
DEEP = "".join(f"Content-Type: multipart/mixed; boundary=B{n}\n\n--B{n}\n" for n in range(40))
refused(
    "refused-nested-too-deep",
    MIME + DEEP + "\ntext\n",
    "554 5.6.0 Message is too complex: parts nested more than 30 deep",
)
assert PLAIN
