"""Structure: mail programs, calendars, reports, boundaries, which texts are read.

``python -m tests.corpus.generators.by_hand_structure`` writes ``NAME.eml`` and ``NAME.json`` or ``NAME.refusal``.
"""

from __future__ import annotations

import struct

from tests.corpus.generators.writing import ICS, MIME, PDF, PNG, div, file, good, wrapped

# ---------------------------------------------------------------- mail programs

good(
    "thunderbird-html-inline",
    f"""Message-ID: <c1b7f8a2-0000-4000-8000-000000000001@example.com>
Date: Tue, 24 Nov 2026 20:00:00 +0100
MIME-Version: 1.0
User-Agent: Mozilla Thunderbird
Content-Language: de-DE
To: =?UTF-8?Q?J=C3=BCrgen_Gro=C3=9F?= <bob@x.example>
From: =?UTF-8?Q?Zo=C3=AB?= <zoe@example.com>
Subject: =?UTF-8?Q?Gr=C3=BC=C3=9Fe_mit_Bild?=
Content-Type: multipart/mixed; boundary="------------mixed0JYk"

This is a multi-part message in MIME format.
--------------mixed0JYk
Content-Type: multipart/alternative;
 boundary="------------altX5bF"

--------------altX5bF
Content-Type: text/plain; charset=UTF-8; format=flowed
Content-Transfer-Encoding: 8bit

Schöne Grüße *fett*

--------------altX5bF
Content-Type: multipart/related;
 boundary="------------relZ2"

--------------relZ2
Content-Type: text/html; charset=UTF-8
Content-Transfer-Encoding: 8bit

<!DOCTYPE html>
<html><body><p>Schöne Grüße <b>fett</b></p>
<img src="cid:part1.AbC@example.com" alt=""></body></html>
--------------relZ2
Content-Type: image/png; name="logo.png"
Content-Disposition: inline; filename="logo.png"
Content-Id: <part1.AbC@example.com>
Content-Transfer-Encoding: base64

{wrapped(PNG)}

--------------relZ2--

--------------altX5bF--
--------------mixed0JYk
Content-Type: application/pdf; name="=?UTF-8?Q?=C3=9Cbersicht=2Epdf?="
Content-Disposition: attachment; filename*=UTF-8''%C3%9Cbersicht%2E%70%64%66
Content-Transfer-Encoding: base64

{wrapped(PDF)}

--------------mixed0JYk--
""",
    {
        "from": "zoe@example.com",
        "name": "Zoë",
        "to": [{"name": "Jürgen Groß", "email": "bob@x.example"}],
        "subject": "Grüße mit Bild",
        "headers": {
            "Message-ID": "<c1b7f8a2-0000-4000-8000-000000000001@example.com>",
            "User-Agent": "Mozilla Thunderbird",
        },
        "body": "<!DOCTYPE html>\n<html><body><p>Schöne Grüße <b>fett</b></p>\n"
        '<img src="cid:part1.AbC@example.com" alt=""></body></html>',
        "attachments": [file("logo.png", PNG, "image/png", "part1.AbC@example.com"), file("Übersicht.pdf", PDF)],
    },
    message_id="<c1b7f8a2-0000-4000-8000-000000000001@example.com>",
)

good(
    "outlook-related-in-mixed",
    f"""From: "Doe, John" <john.doe@example.com>
To: "'bob@x.example'" <bob@x.example>
Subject: RE: Figures
Thread-Topic: Figures
Thread-Index: AdsABCD+EFGHIJKLMNOPQRSTUVWXYZ==
Date: Tue, 24 Nov 2026 19:00:00 +0000
Message-ID: <AM0PR0000001.eurprd01.prod.outlook.com>
References: <A@example.com>
In-Reply-To: <A@example.com>
Accept-Language: en-US
Content-Language: en-US
X-MS-Has-Attach: yes
X-MS-TNEF-Correlator:
x-originating-ip: [192.0.2.1]
Content-Type: multipart/mixed;
\tboundary="_006_AM0PR_"
MIME-Version: 1.0

--_006_AM0PR_
Content-Type: multipart/related;
\tboundary="_005_AM0PR_";
\ttype="multipart/alternative"

--_005_AM0PR_
Content-Type: multipart/alternative;
\tboundary="_000_AM0PR_"

--_000_AM0PR_
Content-Type: text/plain; charset="Windows-1252"
Content-Transfer-Encoding: quoted-printable

It=92s =93done=94 =96 see [cid:image001.png@01DB3E00.5A5A5A50]

--_000_AM0PR_
Content-Type: text/html; charset="Windows-1252"
Content-Transfer-Encoding: quoted-printable

<html><head><meta http-equiv=3D"Content-Type" content=3D"text/html; charset=
=3DWindows-1252"></head><body>It=92s =93done=94 =96 see <img src=3D"cid:ima=
ge001.png@01DB3E00.5A5A5A50"></body></html>

--_000_AM0PR_--

--_005_AM0PR_
Content-Type: image/png; name="image001.png"
Content-Description: image001.png
Content-Disposition: inline; filename="image001.png"; size={len(PNG)};
\tcreation-date="Tue, 24 Nov 2026 18:59:00 GMT";
\tmodification-date="Tue, 24 Nov 2026 18:59:00 GMT"
Content-ID: <image001.png@01DB3E00.5A5A5A50>
Content-Transfer-Encoding: base64

{wrapped(PNG)}

--_005_AM0PR_--

--_006_AM0PR_
Content-Type: application/pdf; name="Report Q3.pdf"
Content-Description: Report Q3.pdf
Content-Disposition: attachment; filename="Report Q3.pdf"; size={len(PDF)};
\tcreation-date="Tue, 24 Nov 2026 18:59:00 GMT"
Content-Transfer-Encoding: base64

{wrapped(PDF)}

--_006_AM0PR_--
""",
    {
        "from": "john.doe@example.com",
        "name": "Doe, John",
        # The name is the address again, in quotes: no name.
        "to": [{"name": "'bob@x.example'", "email": "bob@x.example"}],
        "subject": "RE: Figures",
        "headers": {
            "Thread-Topic": "Figures",
            "Thread-Index": "AdsABCD+EFGHIJKLMNOPQRSTUVWXYZ==",
            "Message-ID": "<AM0PR0000001.eurprd01.prod.outlook.com>",
            "References": "<A@example.com>",
            "In-Reply-To": "<A@example.com>",
            "Accept-Language": "en-US",
            "X-MS-Has-Attach": "yes",
        },
        "body": '<html><head><meta http-equiv="Content-Type" content="text/html; charset=Windows-1252"></head><body>'
        'It’s “done” – see <img src="cid:image001.png@01DB3E00.5A5A5A50"></body></html>\n',
        "attachments": [
            file("image001.png", PNG, "image/png", "image001.png@01DB3E00.5A5A5A50"),
            file("Report Q3.pdf", PDF),
        ],
    },
)


def tnef() -> bytes:
    """A small winmail.dat: signature, key, TNEF version and one message class attribute with their checksums."""

    def attribute(level: int, number: int, data: bytes) -> bytes:
        return struct.pack("<BII", level, number, len(data)) + data + struct.pack("<H", sum(data) & 0xFFFF)

    return (
        struct.pack("<IH", 0x223E9F78, 1)
        + attribute(1, 0x00089006, struct.pack("<I", 0x00010000))
        + attribute(1, 0x00078008, b"IPM.Microsoft Mail.Note\0")
        + attribute(1, 0x00018004, b"Rich text\0")
    )


good(
    "outlook-tnef",
    f"""From: John <john@example.com>
To: bob@x.example
Subject: Rich text
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary="----=_NextPart_000_0001"
X-Mailer: Microsoft Outlook 16.0

This is a multipart message in MIME format.

------=_NextPart_000_0001
Content-Type: text/plain; charset="us-ascii"
Content-Transfer-Encoding: 7bit

Rich text in winmail.dat.

------=_NextPart_000_0001
Content-Type: application/ms-tnef; name="winmail.dat"
Content-Transfer-Encoding: base64
Content-Disposition: attachment; filename="winmail.dat"

{wrapped(tnef())}

------=_NextPart_000_0001--
""",
    {
        "from": "john@example.com",
        "name": "John",
        "subject": "Rich text",
        "headers": {"X-Mailer": "Microsoft Outlook 16.0"},
        "body": div("Rich text in winmail.dat."),
        "attachments": [file("winmail.dat", tnef(), "application/ms-tnef")],
    },
)

good(
    "apple-mail-file-amid-text",
    f"""From: Zoe <zoe@example.com>
Content-Type: multipart/alternative;
\tboundary="Apple-Mail=_A"
Mime-Version: 1.0 (Mac OS X Mail 16.0 \\(3774.600.62\\))
Subject: Two texts around a file
Message-Id: <A1@example.com>
Date: Tue, 24 Nov 2026 20:00:00 +0100
To: bob@x.example
X-Mailer: Apple Mail (2.3774.600.62)


--Apple-Mail=_A
Content-Transfer-Encoding: quoted-printable
Content-Type: text/plain;
\tcharset=utf-8

Before

=EF=BF=BC
After=

--Apple-Mail=_A
Content-Type: multipart/mixed;
\tboundary="Apple-Mail=_B"


--Apple-Mail=_B
Content-Transfer-Encoding: 7bit
Content-Type: text/html;
\tcharset=us-ascii

<html><body>Before</body></html>
--Apple-Mail=_B
Content-Disposition: inline;
\tfilename="plan b.pdf"
Content-Type: application/pdf;
\tx-unix-mode=0644;
\tname="plan b.pdf"
Content-Transfer-Encoding: base64

{wrapped(PDF)}
--Apple-Mail=_B
Content-Transfer-Encoding: 7bit
Content-Type: text/html;
\tcharset=us-ascii

<html><body>After</body></html>
--Apple-Mail=_B--

--Apple-Mail=_A--
""",
    {
        "from": "zoe@example.com",
        "name": "Zoe",
        "subject": "Two texts around a file",
        "headers": {"Message-Id": "<A1@example.com>", "X-Mailer": "Apple Mail (2.3774.600.62)"},
        "body": "<html><body>Before\n<div>After</div>\n</body></html>",
        "attachments": [file("plan b.pdf", PDF)],
    },
)

good(
    "iphone-photo-amid-plain-text",
    f"""Content-Type: multipart/mixed; boundary=Apple-Mail-1
From: Zoe <zoe@example.com>
Mime-Version: 1.0 (1.0)
Subject: Photo
To: bob@x.example
X-Mailer: iPhone Mail (21F90)


--Apple-Mail-1
Content-Type: text/plain;
\tcharset=us-ascii
Content-Transfer-Encoding: 7bit

Look:


--Apple-Mail-1
Content-Type: image/jpeg;
\tname=IMG_0001.jpeg;
\tx-apple-part-url=1A2B
Content-Disposition: inline;
\tfilename=IMG_0001.jpeg
Content-Transfer-Encoding: base64

{wrapped(PNG)}

--Apple-Mail-1
Content-Type: text/plain;
\tcharset=us-ascii
Content-Transfer-Encoding: 7bit



Sent from my iPhone
--Apple-Mail-1--
""",
    {
        "from": "zoe@example.com",
        "name": "Zoe",
        "subject": "Photo",
        "headers": {"X-Mailer": "iPhone Mail (21F90)"},
        "body": div("Look:") + "\n" + div("<br>\n<br>\nSent from my iPhone"),
        "attachments": [file("IMG_0001.jpeg", PNG, "image/jpeg")],
    },
)

good(
    "gmail-attachment",
    f"""MIME-Version: 1.0
From: Alice <alice@example.com>
Date: Tue, 24 Nov 2026 20:00:00 +0100
Message-ID: <CAAbc+123@mail.example.com>
Subject: Vertrag
To: Bob <bob@x.example>
Content-Type: multipart/mixed; boundary="000000000000a1"

--000000000000a1
Content-Type: multipart/alternative; boundary="000000000000a2"

--000000000000a2
Content-Type: text/plain; charset="UTF-8"
Content-Transfer-Encoding: base64

{wrapped("Anbei der Vertrag für Köln.")}
--000000000000a2
Content-Type: text/html; charset="UTF-8"
Content-Transfer-Encoding: base64

{wrapped('<div dir="ltr">Anbei der Vertrag für Köln.</div>')}
--000000000000a2--
--000000000000a1
Content-Type: application/pdf; name="Vertrag für Köln.pdf"
Content-Disposition: attachment; filename="Vertrag für Köln.pdf"
Content-Transfer-Encoding: base64
Content-ID: <f_m3xyz0>
X-Attachment-Id: f_m3xyz0

{wrapped(PDF)}
--000000000000a1--
""",
    {
        "from": "alice@example.com",
        "name": "Alice",
        "to": [{"name": "Bob", "email": "bob@x.example"}],
        "subject": "Vertrag",
        "headers": {"Message-ID": "<CAAbc+123@mail.example.com>"},
        "body": '<div dir="ltr">Anbei der Vertrag für Köln.</div>',
        "attachments": [file("Vertrag für Köln.pdf", PDF)],
    },
)

good(
    "gmail-inline-image",
    f"""MIME-Version: 1.0
From: Alice <alice@example.com>
Subject: Image
To: bob@x.example
Content-Type: multipart/related; boundary="r1"

--r1
Content-Type: multipart/alternative; boundary="a1"

--a1
Content-Type: text/plain; charset="UTF-8"

[image: logo.png]

--a1
Content-Type: text/html; charset="UTF-8"

<div dir="ltr"><img src="cid:ii_m3abc" alt="logo.png" width="1" height="1"><br></div>

--a1--
--r1
Content-Type: image/png; name="logo.png"
Content-Disposition: inline; filename="logo.png"
Content-Transfer-Encoding: base64
Content-ID: <ii_m3abc>
X-Attachment-Id: ii_m3abc

{wrapped(PNG)}
--r1--
""",
    {
        "from": "alice@example.com",
        "name": "Alice",
        "subject": "Image",
        "body": '<div dir="ltr"><img src="cid:ii_m3abc" alt="logo.png" width="1" height="1"><br></div>\n',
        "attachments": [file("logo.png", PNG, "image/png", "ii_m3abc")],
    },
)

INNER = (
    "From: carol@y.example\r\nTo: alice@example.com\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\nMIME-Version: 1.0\r\n"
    'Content-Type: multipart/mixed; boundary="in"\r\n\r\n--in\r\nContent-Type: text/plain\r\n\r\nInner text\r\n--in\r\n'
    'Content-Type: application/pdf; name="in.pdf"\r\nContent-Transfer-Encoding: base64\r\n\r\nJVBERg==\r\n--in--\r\n'
)
good(
    "forward-as-attachment",
    MIME
    + f"""Content-Type: multipart/mixed; boundary="out"

--out
Content-Type: text/plain

See below.
--out
Content-Type: message/rfc822; name="Grüße.eml"
Content-Disposition: attachment; filename="=?UTF-8?Q?Gr=C3=BC=C3=9Fe=2Eeml?="

{INNER}
--out--
""",
    {"body": div("See below."), "attachments": [file("Grüße.eml", INNER, "message/rfc822")]},
)
good(
    "forward-without-name",
    MIME
    + f"""Content-Type: multipart/mixed; boundary="out"

--out
Content-Type: text/plain

See below.
--out
Content-Type: message/rfc822

{INNER}
--out--
""",
    {"body": div("See below."), "attachments": [file("attachment-1.eml", INNER, "message/rfc822")]},
)

# ---------------------------------------------------------------- calendars

FLOWED = wrapped("You have been invited to the following  \r\nevent.\r\n")

ORGANIZER = "ORGANIZER;CN=Zoe:mailto:zoe@example.com\r\n"
CANCEL = ICS.replace("METHOD:REQUEST", "METHOD:CANCEL").replace(
    "SUMMARY:",
    f"{ORGANIZER}ATTENDEE;CN=Bob:mailto:bob@x.example\r\nSEQUENCE:1\r\nSTATUS:CANCELLED\r\nSUMMARY:Cancelled: ",
)
REPLY = ICS.replace("METHOD:REQUEST", "METHOD:REPLY").replace(
    "SUMMARY:", f"{ORGANIZER}ATTENDEE;PARTSTAT=ACCEPTED;CN=A:mailto:a@example.com\r\nSEQUENCE:0\r\nSUMMARY:"
)

good(
    "google-calendar-invitation",
    f"""From: Zoe <zoe@example.com>
Sender: Google Calendar <calendar-notification@example.com>
Reply-To: Zoe <zoe@example.com>
To: bob@x.example
Subject: Invitation: Planning @ Tue Dec 1, 2026
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary="m"

--m
Content-Type: multipart/alternative; boundary="a"

--a
Content-Type: text/plain; charset="UTF-8"; format=flowed; delsp=yes
Content-Transfer-Encoding: base64

{FLOWED}
--a
Content-Type: text/html; charset="UTF-8"
Content-Transfer-Encoding: quoted-printable

<p>You have been invited=E2=80=A6</p>
--a
Content-Type: text/calendar; charset="UTF-8"; method=REQUEST
Content-Transfer-Encoding: 7bit

{ICS}
--a--
--m
Content-Type: application/ics; name="invite.ics"
Content-Disposition: attachment; filename="invite.ics"
Content-Transfer-Encoding: base64

{wrapped(ICS)}
--m--
""",
    {
        "from": "zoe@example.com",
        "name": "Zoe",
        "subject": "Invitation: Planning @ Tue Dec 1, 2026",
        "reply": "zoe@example.com",
        "body": "<p>You have been invited…</p>",
        "attachments": [file("invite.ics", ICS, "text/calendar; method=REQUEST; charset=UTF-8")],
    },
)
good(
    "outlook-calendar-cancel",
    MIME
    + f"""Content-Type: multipart/alternative; boundary="a"

--a
Content-Type: text/plain; charset="utf-8"

Cancelled
--a
Content-Type: text/html; charset="utf-8"

<p>Cancelled</p>
--a
Content-Type: text/calendar; charset="utf-8"; method=CANCEL
Content-Transfer-Encoding: base64

{wrapped(CANCEL)}
--a--
""",
    {
        "body": "<p>Cancelled</p>",
        "attachments": [file("attachment-1.ics", CANCEL, "text/calendar; method=CANCEL; charset=utf-8")],
    },
)
good(
    "calendar-alone",
    MIME + 'Content-Type: text/calendar; method=REPLY; name="reply.ics"\n\n' + REPLY,
    {"body": div("<br>"), "attachments": [file("reply.ics", REPLY, "text/calendar; method=REPLY")]},
)

# ---------------------------------------------------------------- reports and lists

STATUS = (
    "Reporting-MTA: dns; mail.example.com\r\nX-Postfix-Queue-ID: 4Xk9\r\n\r\nFinal-Recipient: rfc822; nobody@y.example\r\n"
    "Action: failed\r\nStatus: 5.1.1\r\nDiagnostic-Code: smtp; 550 5.1.1 User unknown\r\n"
)
RETURNED = "From: a@example.com\r\nTo: nobody@y.example\r\nSubject: Lost\r\n\r\nLost text\r\n"
good(
    "postfix-bounce",
    f"""From: MAILER-DAEMON@example.com (Mail Delivery System)
Subject: Undelivered Mail Returned to Sender
To: bob@x.example
Auto-Submitted: auto-replied
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status;
\tboundary="4Xk9.1/mail.example.com"
Message-Id: <20261124.4Xk9@mail.example.com>

This is a MIME-encapsulated message.

--4Xk9.1/mail.example.com
Content-Description: Notification
Content-Type: text/plain; charset=us-ascii

This is the mail system at host mail.example.com.

<nobody@y.example>: host y.example said: 550 5.1.1 User unknown

--4Xk9.1/mail.example.com
Content-Description: Delivery report
Content-Type: message/delivery-status

{STATUS}
--4Xk9.1/mail.example.com
Content-Description: Undelivered Message
Content-Type: message/rfc822

{RETURNED}
--4Xk9.1/mail.example.com--
""",
    {
        "from": "MAILER-DAEMON@example.com",
        "name": "Mail Delivery System",
        "subject": "Undelivered Mail Returned to Sender",
        "headers": {"Auto-Submitted": "auto-replied", "Message-Id": "<20261124.4Xk9@mail.example.com>"},
        "body": div(
            "This is the mail system at host mail.example.com.<br>\n<br>\n"
            "&lt;nobody@y.example&gt;: host y.example said: 550 5.1.1 User unknown"
        ),
        "attachments": [
            file("attachment-1.txt", STATUS, "message/delivery-status"),
            file("attachment-2.eml", RETURNED, "message/rfc822"),
        ],
    },
)
MDN = "Reporting-UA: pc; Thunderbird\r\nFinal-Recipient: rfc822;bob@x.example\r\nDisposition: manual-action/MDN-sent-manually; displayed\r\n"
good(
    "read-receipt",
    MIME
    + f"""References: <m@example.com>
Content-Type: multipart/report; report-type=disposition-notification; boundary=r

--r
Content-Type: text/plain; charset=utf-8

Your message was displayed.
--r
Content-Type: message/disposition-notification; name="MDNPart2.txt"
Content-Disposition: inline

{MDN}
--r--
""",
    {
        "headers": {"References": "<m@example.com>"},
        "body": div("Your message was displayed."),
        "attachments": [file("MDNPart2.txt", MDN, "message/disposition-notification")],
    },
)
ARF = "Feedback-Type: abuse\r\nUser-Agent: Example/1.0\r\nVersion: 1\r\n"
HEADERS_ONLY = "From: a@example.com\r\nSubject: Lost\r\n"
good(
    "feedback-report",
    MIME
    + f"""Content-Type: multipart/report; report-type=feedback-report; boundary=r

--r
Content-Type: text/plain

An abuse report.
--r
Content-Type: message/feedback-report

{ARF}
--r
Content-Type: text/rfc822-headers

{HEADERS_ONLY}
--r--
""",
    {
        "body": div("An abuse report."),
        "attachments": [
            file("attachment-1.txt", ARF, "message/feedback-report"),
            file("attachment-2.txt", HEADERS_ONLY, "text/rfc822-headers"),
        ],
    },
)
good(
    "mailman-list",
    """Received: from a.example (a.example [192.0.2.1]) by mail.example.com; Tue, 24 Nov 2026 20:00:00 +0000
Return-Path: <list-bounces@example.com>
Delivered-To: list@example.com
Sender: "List" <list-bounces@example.com>
From: Carol via List <list@example.com>
Reply-To: Carol <carol@y.example>, List <list@example.com>
To: list@example.com
Subject: [List] =?utf-8?b?RnJhZ2U=?=
Errors-To: list-bounces@example.com
Precedence: list
X-BeenThere: list@example.com
X-Mailman-Version: 2.1.39
List-Id: A list <list.example.com>
List-Unsubscribe: <https://example.com/options/list>,
 <mailto:list-request@example.com?subject=unsubscribe>
List-Archive: <https://example.com/archive/>
List-Post: <mailto:list@example.com>
List-Help: <mailto:list-request@example.com?subject=help>
List-Subscribe: <https://example.com/listinfo/list>
Archived-At: <https://example.com/archive/1>
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary="===============1=="

--===============1==
Content-Type: text/plain; charset="utf-8"
Content-Transfer-Encoding: base64

RnJhZ2UK

--===============1==
Content-Type: text/plain; charset="us-ascii"
MIME-Version: 1.0
Content-Transfer-Encoding: 7bit
Content-Disposition: inline

_______________________________________________
List mailing list
list@example.com

--===============1==--
""",
    {
        "from": "list@example.com",
        "name": "Carol via List",
        "subject": "[List] Frage",
        "reply": "carol@y.example",
        "headers": {
            "Errors-To": "list-bounces@example.com",
            "Precedence": "list",
            "X-BeenThere": "list@example.com",
            "X-Mailman-Version": "2.1.39",
            "List-Id": "A list <list.example.com>",
            "List-Unsubscribe": "<https://example.com/options/list>, <mailto:list-request@example.com?subject=unsubscribe>",
            "List-Archive": "<https://example.com/archive/>",
            "List-Post": "<mailto:list@example.com>",
            "List-Help": "<mailto:list-request@example.com?subject=help>",
            "List-Subscribe": "<https://example.com/listinfo/list>",
            "Archived-At": "<https://example.com/archive/1>",
        },
        "body": div("Frage")
        + '\n<div style="word-wrap:break-word;overflow-wrap:anywhere">_______________________________________________<br>\n'
        "List mailing list<br>\nlist@example.com</div>",
    },
)
good(
    "digest",
    MIME
    + """Content-Type: multipart/digest; boundary=d

--d

From: x@y.example
Subject: One

First
--d

From: x@y.example
Subject: Two

Second
--d--
""",
    {
        "body": div("<br>"),
        "attachments": [
            file("attachment-1.eml", "From: x@y.example\r\nSubject: One\r\n\r\nFirst", "message/rfc822"),
            file("attachment-2.eml", "From: x@y.example\r\nSubject: Two\r\n\r\nSecond", "message/rfc822"),
        ],
    },
)

# ---------------------------------------------------------------- structure: boundaries

good(
    "boundary-shared-by-nested-parts",
    MIME
    + f"""Content-Type: multipart/mixed; boundary="A"

--A
Content-Type: multipart/alternative; boundary="A"

--A
Content-Type: text/plain

text
--A
Content-Type: text/html

<p>html</p>
--A--
--A
Content-Type: application/pdf; name=a.pdf
Content-Transfer-Encoding: base64

{wrapped(PDF)}
--A--
""",
    {"body": "<p>html</p>", "attachments": [file("a.pdf", PDF)]},
)
good(
    "boundary-that-begins-another",
    MIME
    + """Content-Type: multipart/mixed; boundary="A"

--A
Content-Type: multipart/alternative; boundary="A1"

--A1
Content-Type: text/plain

text
--A1
Content-Type: text/html

<p>--A is no end --A</p>
--Ab
--A1--
--A
Content-Type: text/plain

tail
--A--
""",
    {"body": "<p>--A is no end --A</p>\n--Ab\n" + div("tail")},
)
good(
    "boundary-parameter-missing",
    MIME + "Content-Type: multipart/mixed\n\n--x\nContent-Type: text/plain\n\nHello\n--x--\n",
    # A line of dashes with MIME headers behind it is a boundary, whatever the message forgot to say.
    {"body": div("Hello")},
)
good(
    "boundary-never-comes",
    MIME + "Content-Type: multipart/alternative; boundary=never\n\nText without any part.\n",
    {"body": div("Text without any part.")},
)
good(
    "boundary-never-closed",
    MIME + f"Content-Type: multipart/mixed; boundary=A\n\n--A\n\ntext\n--A\nContent-Type: application/pdf; name=a.pdf\n"
    f"Content-Transfer-Encoding: base64\n\n{wrapped(PDF)}\n",
    {"body": div("text"), "attachments": [file("a.pdf", PDF)]},
)
good(
    "boundary-inner-never-closed",
    MIME
    + f"Content-Type: multipart/mixed; boundary=A\n\n--A\nContent-Type: multipart/alternative; boundary=B\n\n--B\n\ntext\n"
    f"--B\nContent-Type: text/html\n\n<p>html</p>\n--A\nContent-Type: application/pdf; name=a.pdf\n"
    f"Content-Transfer-Encoding: base64\n\n{wrapped(PDF)}\n--A--\n",
    {"body": "<p>html</p>", "attachments": [file("a.pdf", PDF)]},
)
good(
    "boundary-of-odd-characters",
    MIME + "Content-Type: multipart/mixed; boundary=\"=_(x) '+_,-./:=? y\"\n\n--=_(x) '+_,-./:=? y  \t\n\none\n"
    "--=_(x) '+_,-./:=? y\n\ntwo\n--=_(x) '+_,-./:=? y-- \n",
    {"body": div("one") + "\n" + div("two")},
)
good(
    "boundary-not-quoted-with-a-comment",
    MIME + "Content-Type: MULTIPART/Mixed; Boundary=a=b.c (comment)\n\n--a=b.c\n\none\n--a=b.c--\n",
    {"body": div("one")},
)
good(
    "preamble-and-epilogue",
    MIME
    + "Content-Type: multipart/mixed; boundary=A\n\nThis is a preamble for old programs.\n--B\n--A\n\ntext\n--A--\nEpilogue\n--B--\n",
    {"body": div("text")},
)
good(
    "parts-after-the-closing-boundary",
    MIME + "Content-Type: multipart/mixed; boundary=A\n\n--A\n\ntext\n--A--\nEpilogue\n--A\n\nnot lost\n--A--\n",
    {"body": div("text") + "\n" + div("not lost")},
)
good(
    "part-without-blank-line",
    MIME
    + "Content-Type: multipart/mixed; boundary=A\n\n--A\nContent-Type: text/plain\nHello without a blank line.\nSecond line\n--A\n\nNext\n--A--\n",
    {"body": div("Hello without a blank line.<br>\nSecond line") + "\n" + div("Next")},
)
good(
    "multipart-of-unknown-kind",
    MIME
    + "Content-Type: multipart/x-new-thing; boundary=A\n\n--A\n\none\n--A\nContent-Type: text/html\n\n<p>two</p>\n--A--\n",
    {"body": div("one") + "\n" + div("<p>two</p>")},
)
good(
    "multipart-with-an-encoding",
    MIME
    + "Content-Type: multipart/mixed; boundary=A\nContent-Transfer-Encoding: quoted-printable\n\n--A\n\n1 =3D 1\n--A\n"
    "Content-Transfer-Encoding: quoted-printable\n\n1 =3D 1\n--A--\n",
    # An encoding on a multipart is forbidden (RFC 2045 section 6.4) and says nothing of its parts.
    {"body": div("1 =3D 1") + "\n" + div("1 = 1")},
)
DEEP = "".join(f"Content-Type: multipart/mixed; boundary=B{n}\n\n--B{n}\n" for n in range(20))
good(
    "nesting-20-deep",
    MIME + DEEP + "\ndeep text\n" + "".join(f"--B{n}--\n" for n in reversed(range(20))),
    {"body": div("deep text")},
)

# ---------------------------------------------------------------- structure: which texts are read

good(
    "texts-in-order-html-and-plain",
    MIME
    + f"""Content-Type: multipart/mixed; boundary=A

--A
Content-Type: text/html; charset=utf-8

<p>first</p>
--A
Content-Type: text/plain

second <b>
--A
Content-Type: application/pdf; name=a.pdf
Content-Transfer-Encoding: base64

{wrapped(PDF)}
--A
Content-Type: text/plain

third, after a file
--A--
""",
    {
        "body": "<p>first</p>\n" + div("second &lt;b&gt;") + "\n" + div("third, after a file"),
        "attachments": [file("a.pdf", PDF)],
    },
)
PAGE = """<!DOCTYPE html>
<html><head><title>Notice</title><style>p { color: navy } /* </body> */</style></head>
<body bgcolor="#ffffff">
<p>Our office is closed on Monday.</p>
<!-- an editor's remark: </body> -->
</body>
</html>
"""
FOOTER = """_______________________________________________
List mailing list -- list@example.com
To unsubscribe: <mailto:list-leave@example.com>
"""
FOOTER_HTML = div(
    "_______________________________________________<br>\nList mailing list -- list@example.com<br>\n"
    'To unsubscribe: &lt;<a href="mailto:list-leave@example.com">mailto:list-leave@example.com</a>&gt;'
).replace("<div>", '<div style="word-wrap:break-word;overflow-wrap:anywhere">')
PAGE_ENDS = PAGE.index("</body>\n</html>")
PAGE_BEGINS = PAGE.index("\n<p>Our")
good(
    "page-and-a-plain-footer",
    f"""From: Carol via List <list@example.com>
To: list@example.com
Subject: [List] Notice
Sender: list-bounces@example.com
List-Id: A list <list.example.com>
X-Mailman-Version: 3.3.8
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary="===============2=="

--===============2==
Content-Type: multipart/alternative; boundary="a"

--a
Content-Type: text/plain; charset="utf-8"

Our office is closed on Monday.
--a
Content-Type: text/html; charset="utf-8"

{PAGE}
--a--

--===============2==
Content-Type: text/plain; charset="us-ascii"
MIME-Version: 1.0
Content-Transfer-Encoding: 7bit
Content-Disposition: inline

{FOOTER}
--===============2==--
""",
    {
        "from": "list@example.com",
        "name": "Carol via List",
        "subject": "[List] Notice",
        "headers": {"List-Id": "A list <list.example.com>", "X-Mailman-Version": "3.3.8"},
        "body": f"{PAGE[:PAGE_ENDS]}\n{FOOTER_HTML}\n{PAGE[PAGE_ENDS:]}",
    },
)
good(
    "page-behind-a-plain-text",
    MIME
    + f"""Content-Type: multipart/mixed; boundary=A

--A
Content-Type: text/plain; charset=utf-8

CAUTION: This e-mail came from outside.
--A
Content-Type: text/html; charset=utf-8

{PAGE}
--A--
""",
    {"body": f"{PAGE[:PAGE_BEGINS]}{div('CAUTION: This e-mail came from outside.')}\n{PAGE[PAGE_BEGINS:]}"},
)
good(
    "page-and-an-html-footer",
    MIME
    + f"""Content-Type: multipart/mixed; boundary=A

--A
Content-Type: text/html; charset=utf-8

{PAGE}
--A
Content-Type: text/html; charset=utf-8
Content-Disposition: inline

<hr><font size="1">Example Ltd, <a href="https://example.com/legal">legal notice</a></font>

--A--
""",
    {
        "body": PAGE[:PAGE_ENDS]
        + '\n<div><hr><font size="1">Example Ltd, <a href="https://example.com/legal">legal notice</a></font></div>\n'
        + PAGE[PAGE_ENDS:]
    },
)
good(
    "pages-two",
    MIME
    + f"""Content-Type: multipart/mixed; boundary=A

--A
Content-Type: text/html; charset=utf-8

{PAGE}
--A
Content-Type: application/pdf; name=a.pdf
Content-Transfer-Encoding: base64

{wrapped(PDF)}
--A
Content-Type: text/html; charset=utf-8

<HTML dir=rtl>
<HEAD><META charset=utf-8><TITLE>Second</TITLE><STYLE>.x {{ color: red }}</STYLE></HEAD>
<BODY style="font-family: 'A>B'"><B class=x>שלום</B></BODY>
</HTML>
--A--
""",
    {
        "body": PAGE[:PAGE_ENDS]
        + "\n<div style=\"font-family: 'A>B'\" dir=rtl><META charset=utf-8><STYLE>.x { color: red }</STYLE>\n"
        + "<B class=x>שלום</B></div>\n"
        + PAGE[PAGE_ENDS:],
        "attachments": [file("a.pdf", PDF)],
    },
)
good(
    "html-fragments-in-a-row",
    MIME
    + """Content-Type: multipart/mixed; boundary=A

--A
Content-Type: text/html

<b>first</b>
--A
Content-Type: text/html

<i>second</i>
--A--
""",
    {"body": "<b>first</b>\n<div><i>second</i></div>"},
)
good(
    "alternative-in-the-wrong-order",
    MIME
    + "Content-Type: multipart/alternative; boundary=A\n\n--A\nContent-Type: text/html\n\n<p>html</p>\n--A\n\ntext\n--A--\n",
    {"body": "<p>html</p>"},
)
good(
    "alternative-with-an-empty-html",
    MIME + "Content-Type: multipart/alternative; boundary=A\n\n--A\n\ntext\n--A\nContent-Type: text/html\n\n \n--A--\n",
    {"body": div("text")},
)
good(
    "alternative-with-amp",
    MIME
    + """Content-Type: multipart/alternative; boundary=A

--A
Content-Type: text/plain

text
--A
Content-Type: text/x-amp-html

<!doctype html><html amp4email><body>amp</body></html>
--A
Content-Type: text/html

<p>html</p>
--A--
""",
    # Another way to say the same that the API cannot carry: no file of the sender's.
    {"body": "<p>html</p>"},
)
good(
    "alternative-with-enriched-text",
    MIME
    + "Content-Type: multipart/alternative; boundary=A\n\n--A\n\ntext\n--A\nContent-Type: text/enriched\n\n<bold>text</bold>\n--A--\n",
    {"body": div("text")},
)
good(
    "alternative-inside-related-with-start",
    MIME
    + f"""Content-Type: multipart/related; boundary=R; start="<root>"; type="multipart/alternative"

--R
Content-Type: image/png
Content-Transfer-Encoding: base64
Content-ID: i1@example.com

{wrapped(PNG)}
--R
Content-Type: multipart/alternative; boundary=A
Content-ID: <root>

--A
Content-Type: text/plain

[a picture]
--A
Content-Type: text/html

<p>A picture: <img src="cid:i1@example.com"></p>
--A--
--R--
""",
    {
        "body": '<p>A picture: <img src="cid:i1@example.com"></p>',
        "attachments": [file("attachment-1.png", PNG, "image/png", "i1@example.com")],
    },
)
good(
    "image-in-mixed-that-the-html-shows",
    MIME
    + f"""Content-Type: multipart/mixed; boundary=A

--A
Content-Type: text/html

<img src="cid:logo">
--A
Content-Type: image/png; name=logo.png
Content-Disposition: attachment; filename=logo.png
Content-ID: <logo>
Content-Transfer-Encoding: base64

{wrapped(PNG)}
--A--
""",
    {"body": '<img src="cid:logo">', "attachments": [file("logo.png", PNG, "image/png", "logo")]},
)
good(
    "image-by-content-location",
    MIME
    + f"""Content-Type: multipart/related; boundary=A; type="text/html"

--A
Content-Type: text/html
Content-Location: https://example.com/page.html

<img src="logo.png">
--A
Content-Type: image/png; name=logo.png
Content-Location: https://example.com/logo.png
Content-Transfer-Encoding: base64

{wrapped(PNG)}
--A--
""",
    {"body": '<img src="logo.png">', "attachments": [file("logo.png", PNG, "image/png")]},
)
good(
    "body-with-a-name",
    MIME
    + 'Content-Type: text/html; charset=utf-8; name="mail.html"\n\n<p>The only part is the body, name or not.</p>\n',
    {"body": "<p>The only part is the body, name or not.</p>\n"},
)
good(
    "text-files",
    MIME
    + """Content-Type: multipart/mixed; boundary=A

--A
Content-Type: text/plain

See the files.
--A
Content-Type: text/plain; charset=utf-8; name=notes.txt
Content-Disposition: attachment; filename=notes.txt
Content-Transfer-Encoding: 8bit

Größe: 3
--A
Content-Type: text/html; name=page.html
Content-Disposition: inline; filename=page.html

<p>page</p>
--A--
""",
    {
        "body": div("See the files."),
        "attachments": [
            file("notes.txt", "Größe: 3", "text/plain; charset=utf-8"),
            file("page.html", "<p>page</p>", "text/html"),
        ],
    },
)
good(
    "appledouble",
    MIME
    + f"""Content-Type: multipart/mixed; boundary=A

--A

text
--A
Content-Type: multipart/appledouble; boundary=D

--D
Content-Type: application/applefile; name="._a.pdf"
Content-Transfer-Encoding: base64

AAUWBw==
--D
Content-Type: application/pdf; name="a.pdf"
Content-Transfer-Encoding: base64

{wrapped(PDF)}
--D--
--A--
""",
    {
        "body": div("text"),
        "attachments": [
            file("._a.pdf", b"\0\x05\x16\x07", "application/applefile"),
            file("a.pdf", PDF),
        ],
    },
)
good(
    "scanner",
    f"""From: scanner@example.com
To: bob@x.example
Subject: Message from KM_C258
X-Mailer: KONICA MINOLTA bizhub C258
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary="KONICA"

--KONICA
Content-Type: text/plain; charset=US-ASCII


--KONICA
Content-Type: application/pdf; name="SKM_C25826112420000.pdf"
Content-Transfer-Encoding: base64
Content-Disposition: attachment; filename="SKM_C25826112420000.pdf"

{wrapped(PDF)}

--KONICA--
""",
    {
        "from": "scanner@example.com",
        "subject": "Message from KM_C258",
        "headers": {"X-Mailer": "KONICA MINOLTA bizhub C258"},
        "body": div("<br>"),
        "attachments": [file("SKM_C25826112420000.pdf", PDF)],
    },
)
good(
    "file-alone",
    MIME + f"Content-Type: application/pdf; name=scan.pdf\nContent-Transfer-Encoding: base64\n\n{wrapped(PDF)}\n",
    {"body": div("<br>"), "attachments": [file("scan.pdf", PDF)]},
)
good(
    "empty-file-is-left-out",
    MIME
    + "Content-Type: multipart/mixed; boundary=A\n\n--A\n\ntext\n--A\nContent-Type: application/pdf; name=e.pdf\n\n--A--\n",
    {"body": div("text")},
)
