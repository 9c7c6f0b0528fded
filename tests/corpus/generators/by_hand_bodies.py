"""Bodies: transfer encodings, charsets, flowed text, what programs and devices send.

``python -m tests.corpus.generators.by_hand_bodies`` writes ``NAME.eml`` and ``NAME.json`` or ``NAME.refusal``.
"""

from __future__ import annotations

import binascii

from tests.corpus.generators.writing import HEAD, MIME, PDF, b64, div, file, good, wrapped


def body(name: str, headers: str, content: str | bytes, expected: str) -> None:
    """A message of one part."""
    raw = content if isinstance(content, bytes) else content.encode()
    good(f"body-{name}", (MIME + headers + "\n").encode() + raw, {"body": expected})


# ---------------------------------------------------------------- transfer encodings

BASE64 = "Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: base64\n"
body("base64-with-junk", BASE64, "R3L*DvM\nOfZS!B\n hdXM\n-- \n", div("Grüße aus"))
body("base64-without-padding", BASE64, "R3LDvMOfZQ\n", div("Grüße"))
body("base64-on-one-line", BASE64, b64("Grüße " * 200) + "\n", div(("Grüße " * 200).strip()))
body("base64-with-a-trailing-space", BASE64.replace("base64", "BASE64 "), wrapped("Grüße") + "\n", div("Grüße"))
body("base64-with-a-comment", BASE64.replace("base64", "base64 (of course)"), wrapped("Grüße") + "\n", div("Grüße"))
QP = "Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: quoted-printable\n"
body(
    "quoted-printable-soft-breaks-and-errors",
    QP,
    "Gr=C3=BC=c3=9fe =\nand a=  \nb, 1 =3D 1, 100 =% =XY =4 trailing   \nkept =20\nend=",
    div("Grüße and ab, 1 = 1, 100 =% =XY =4 trailing<br>\nkept&nbsp; <br>\nend"),
)
body("quoted-printable-without-charset", "Content-Transfer-Encoding: Quoted-Printable\n", "caf=E9\n", div("café"))
body("quoted-printable-of-equals-signs", QP, "=\n" * 50 + "text\n", div("text"))
body(
    "8-bit-utf-8",
    "Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n",
    "Grüße 🎉\n",
    div("Grüße 🎉"),
)
body("8-bit-without-charset", "", "Grüße 🎉\n", div("Grüße 🎉"))
body("8-bit-latin-1-without-charset", "", "Grüße\n".encode("latin-1"), div("Grüße"))
body(
    "8-bit-labelled-7bit",
    "Content-Type: text/plain; charset=us-ascii\nContent-Transfer-Encoding: 7bit\n",
    "Grüße\n",
    div("Grüße"),
)
body("of-an-unknown-encoding", "Content-Transfer-Encoding: x-nothing\n", "text =3D\n", div("text =3D"))
body(
    "uuencode-in-old-text",
    "",
    "See:\n\nbegin 644 a.txt\n#86)C\n`\nend\n",
    div("See:<br>\n<br>\nbegin 644 a.txt<br>\n#86)C<br>\n`<br>\nend"),
)
UU = (
    "begin 644 report.pdf\n"
    + "".join(binascii.b2a_uu(PDF[at : at + 45]).decode() for at in range(0, len(PDF), 45))
    + "`\nend\n"
)
good(
    "file-in-x-uuencode",
    MIME
    + "Content-Type: multipart/mixed; boundary=A\n\n--A\n\ntext\n--A\nContent-Type: application/pdf\n"
    + f"Content-Disposition: attachment; filename=report.pdf\nContent-Transfer-Encoding: x-uuencode\n\n{UU}--A--\n",
    {"body": div("text"), "attachments": [file("report.pdf", PDF)]},
)
good(
    "file-in-damaged-base64",
    MIME
    + "Content-Type: multipart/mixed; boundary=A\n\n--A\n\ntext\n--A\nContent-Type: application/pdf; name=a.pdf\n"
    + f"Content-Transfer-Encoding: base64\n\n\n{b64(PDF)[:20]}\n\n> {b64(PDF)[20:].rstrip('=')}\n\n--A--\n",
    {"body": div("text"), "attachments": [file("a.pdf", PDF)]},
)
good(
    "file-in-quoted-printable-and-8-bit",
    (
        MIME
        + "Content-Type: multipart/mixed; boundary=A\n\n--A\n\ntext\n--A\nContent-Type: application/octet-stream; name=q.bin\n"
        + "Content-Transfer-Encoding: quoted-printable\n\n=00=FF=0D=0A=\nx\n--A\n"
        + "Content-Type: application/octet-stream; name=e.bin\nContent-Transfer-Encoding: binary\n\n"
    ).encode()
    + b"\x00\xfe\xff\x80\n--A--\n",
    {
        "body": div("text"),
        "attachments": [
            file("q.bin", b"\x00\xff\r\nx", "application/octet-stream"),
            file("e.bin", b"\x00\xfe\xff\x80", "application/octet-stream"),
        ],
    },
)
CRLF = HEAD.replace("\n", "\r\n")
good(
    "body-with-bare-cr",
    CRLF + "\r\none\rtwo\r\nthree\r\r\nfour\r\n",
    {"body": div("one<br>\ntwo<br>\nthree<br>\nfour")},
    exact=True,
)
good("body-with-bare-lf", CRLF + "\r\none\ntwo\r\nthree\r\n", {"body": div("one<br>\ntwo<br>\nthree")}, exact=True)
good(
    "headers-with-bare-cr",
    CRLF + "X-A: one\rX-B: two\r\n\r\ntext\r\n",
    {"headers": {"X-A": "one X-B: two"}, "body": div("text")},
    exact=True,
)
good("headers-with-bare-lf", HEAD + "X-A: 1\n\ntext\n", {"headers": {"X-A": "1"}, "body": div("text")}, exact=True)
body("with-nuls", "", b"a\x00b\x00c\n", div("abc"))
body(
    "long-lines-of-html",
    "Content-Type: text/html; charset=utf-8\n",
    f"<p>{'Größe ' * 1000}</p>\n",
    f"<p>{'Größe ' * 1000}</p>\n",
)

# ---------------------------------------------------------------- charsets

CHARSETS = {
    "utf-8": "Grüße 🎉",
    '"UTF-8"': "Grüße 🎉",
    "utf8": "Grüße",
    "iso-8859-1": "Grüße",
    "iso-8859-15": "Grüße €",
    "windows-1252": "„Grüße“ – 3 €",
    "iso-8859-2": "Zażółć gęślą jaźń",
    "windows-1250": "Příliš žluťoučký kůň",
    "koi8-r": "Привет, мир",
    "windows-1251": "Привет, мир",
    "iso-8859-7": "Καλημέρα",
    "iso-8859-9": "Günaydın, şişe",
    "windows-1255": "שלום עולם",
    "iso-8859-8-i": "שלום עולם",
    "windows-1256": "مرحبا بالعالم",
    "windows-874": "สวัสดีชาวโลก",
    "tis-620": "สวัสดีชาวโลก",
    "big5": "您好，世界",
    "gb2312": "您好，朱镕基",
    "gb18030": "您好，世界 🎉",
    "hz-gb-2312": "您好，世界",
    "shift_jis": "こんにちは①",
    "euc-jp": "こんにちは",
    "iso-2022-jp": "こんにちは、世界",
    "euc-kr": "안녕하세요 똠",
    "ks_c_5601-1987": "안녕하세요 똠",
    "iso-2022-kr": "안녕하세요",
    "utf-16": "Grüße 🎉",
    "utf-16le": "Grüße 🎉",
    "utf-32": "Grüße 🎉",
    "utf-7": "Grüße – 你好",
    "unicode-1-1-utf-7": "Grüße – 你好",
    "macintosh": "Grüße “x”",
    "cp850": "Grüße",
    "cp-850": "Grüße",
    "cp932": "こんにちは①",
    "x-sjis": "こんにちは①",
    "latin1": "Grüße “so”",
}
PYTHON = {
    '"UTF-8"': "utf-8",
    "iso-8859-8-i": "iso-8859-8",
    "windows-874": "cp874",
    "gb2312": "gbk",
    "hz-gb-2312": "hz",
    "shift_jis": "cp932",
    "euc-kr": "cp949",
    "ks_c_5601-1987": "cp949",
    "unicode-1-1-utf-7": "utf-7",
    "macintosh": "mac-roman",
    "cp-850": "cp850",
    "x-sjis": "cp932",
    "latin1": "cp1252",
}
for charset, text in CHARSETS.items():
    is_mixed = any("\u0590" <= char <= "\u06ff" for char in text)
    good(
        "charset-" + charset.strip('"').lower() + ("-quoted" if '"' in charset else ""),
        MIME
        + f"Content-Type: text/plain; charset={charset}\nContent-Transfer-Encoding: base64\n\n"
        + wrapped(text.encode(PYTHON.get(charset, charset)))
        + "\n",
        {"body": f'<div dir="rtl">{text}</div>' if is_mixed else div(text)},
    )
body("charset-unknown-is-utf-8", "Content-Type: text/plain; charset=x-nowhere\n", "Grüße\n", div("Grüße"))
body(
    "charset-unknown-is-latin-1",
    "Content-Type: text/plain; charset=x-nowhere\n",
    "Grüße\n".encode("latin-1"),
    div("Grüße"),
)
body(
    "charset-utf-8-that-is-not", "Content-Type: text/plain; charset=utf-8\n", "Grüße\n".encode("latin-1"), div("Grüße")
)
body(
    "charset-utf-8-with-one-wrong-byte",
    "Content-Type: text/plain; charset=utf-8\n",
    "Grüße \udce4 日本\n".encode("utf-8", "surrogateescape"),
    div("Grüße ä 日本"),
)
body(
    "charset-latin-1-that-is-windows",
    "Content-Type: text/plain; charset=iso-8859-1\n",
    b"\x93so\x94 \x96 \x80\n",
    div("“so” – €"),
)
body(
    "charset-in-a-meta-element",
    "Content-Type: text/html\n",
    "<html><head><meta http-equiv='Content-Type' content='text/html; charset=windows-1251'></head><body>Привет</body></html>\n".encode(
        "cp1251"
    ),
    "<html><head><meta http-equiv='Content-Type' content='text/html; charset=windows-1251'></head><body>Привет</body></html>\n",
)
body("charset-of-html-not-told", "Content-Type: text/html\n", "<p>Grüße 🎉</p>\n", "<p>Grüße 🎉</p>\n")
body(
    "charset-with-a-byte-order-mark",
    "Content-Type: text/plain; charset=utf-8\n",
    b"\xef\xbb\xbfGr\xc3\xbc\xc3\x9fe\n",
    div("Grüße"),
)
body(
    "type-without-a-semicolon", "Content-Type: text/plain charset=koi8-r\n", "Привет\n".encode("koi8-r"), div("Привет")
)
body("type-with-comments", "Content-Type: text/plain (plain); charset=utf-8 (yes)\n", "Grüße\n", div("Grüße"))
body("type-of-one-word", "Content-Type: text\n", "text\n", div("text"))
good("body-type-missing-before-mime", HEAD + "\nA text of 1982.\n", {"body": div("A text of 1982.")})

# ---------------------------------------------------------------- plain text

FLOWED = "Content-Type: text/plain; charset=utf-8; format=flowed\n"
body(
    "flowed",
    FLOWED,
    "This paragraph \nflows over \nlines.\n\n> A quote that \n> flows.\n>> Deeper \n> shallower\n\n  stuffed\n From here\n-- \nZoe\n",
    div(
        "This paragraph flows over lines.<br>\n<br>\n&gt; A quote that flows.<br>\n&gt;&gt; Deeper <br>\n&gt; shallower<br>\n<br>\n"
        "&nbsp;stuffed<br>\nFrom here<br>\n-- <br>\nZoe"
    ),
)
body(
    "flowed-without-spaces",
    FLOWED.replace("flowed\n", "Flowed; DelSp=Yes\n"),
    "これは \n一つの \n文です。\n",
    div("これは一つの文です。"),
)
body(
    "password-reset-in-angle-brackets",
    "Content-Type: text/plain; charset=UTF-8\n",
    "Someone has requested a password reset for the following account:\n\nSite Name: Example\n\nTo reset your password, visit the "
    "following address:\n\n<https://example.com/wp-login.php?action=rp&key=AbC123&login=zo%C3%AB&wp_lang=de_DE>\n\n"
    "This password reset request originated from the IP address 192.0.2.1.\n",
    '<div style="word-wrap:break-word;overflow-wrap:anywhere">Someone has requested a password reset for the following account:<br>\n<br>\n'
    "Site Name: Example<br>\n<br>\nTo reset your password, visit the following address:<br>\n<br>\n&lt;"
    '<a href="https://example.com/wp-login.php?action=rp&amp;key=AbC123&amp;login=zo%C3%AB&amp;wp_lang=de_DE">'
    "https://example.com/wp-login.php?action=rp&amp;key=AbC123&amp;login=zo%C3%AB&amp;wp_lang=de_DE</a>&gt;<br>\n<br>\n"
    "This password reset request originated from the IP address 192.0.2.1.</div>",
)
MONO = "font-family:Consolas,Menlo,monospace"
body(
    "cron-table",
    "Content-Type: text/plain; charset=UTF-8\n",
    "Filesystem      Size  Used Avail Use% Mounted on\n/dev/sda1        50G   41G  9.0G  82% /\ntmpfs           1.9G     0  1.9G   0% /dev/shm\n",
    f'<div style="{MONO}">Filesystem&nbsp;&nbsp;&nbsp;&nbsp;&nbsp; Size&nbsp; Used Avail Use% Mounted on<br>\n'
    "/dev/sda1&nbsp;&nbsp;&nbsp;&nbsp;&nbsp;&nbsp;&nbsp; 50G&nbsp;&nbsp; 41G&nbsp; 9.0G&nbsp; 82% /<br>\n"
    "tmpfs&nbsp;&nbsp;&nbsp;&nbsp;&nbsp;&nbsp;&nbsp;&nbsp;&nbsp;&nbsp; 1.9G&nbsp;&nbsp;&nbsp;&nbsp; 0&nbsp; 1.9G&nbsp;&nbsp; 0% /dev/shm</div>",
)
body(
    "hostile-text",
    "Content-Type: text/plain; charset=UTF-8\n",
    '<script>alert(1)</script>\nhttps://x.example/"onmouseover="alert(1)\n<https://x.example/\'><b>\njavascript:alert(1)\n&lt;b&gt; &amp;\n',
    '<div style="word-wrap:break-word;overflow-wrap:anywhere">'
    + div(
        '&lt;script&gt;alert(1)&lt;/script&gt;<br>\n<a href="https://x.example/">https://x.example/</a>"onmouseover="alert(1)<br>\n'
        "&lt;<a href=\"https://x.example/'\">https://x.example/'</a>&gt;&lt;b&gt;<br>\njavascript:alert(1)<br>\n&amp;lt;b&amp;gt; &amp;amp;"
    ).removeprefix("<div>"),
)
body("template-in-text", "", 'Hello {{ name ?? "you" }},  {{a}}\n', div('Hello {{ name ?? "you" }},&nbsp; {{a}}'))
body(
    "template-in-html",
    "Content-Type: text/html\n",
    '<p>{{ name ?? "you" }} &amp; {{{ raw }}}</p>\n',
    '<p>{{ name ?? "you" }} &amp; {{{ raw }}}</p>\n',
)
body(
    "right-to-left-and-left-to-right",
    "Content-Type: text/plain; charset=UTF-8\n",
    "שלום Bob,\nhttps://x.example/\n\nמרחבא\nHello\n".replace("מרחבא", "مرحبا"),
    '<div dir="rtl">שלום Bob,</div>\n<div dir="ltr"><a href="https://x.example/">https://x.example/</a></div>\n'
    '<div dir="rtl"><br>\nمرحبا</div>\n<div dir="ltr">Hello</div>',
)
body("emoji", "Content-Type: text/plain; charset=UTF-8\n", "👩‍👩‍👧‍👦 🇩🇪 ❤️ 👍🏽\n", div("👩‍👩‍👧‍👦 🇩🇪 ❤️ 👍🏽"))

# ---------------------------------------------------------------- programs and devices

good(
    "wordpress-comment-notice",
    """Date: Tue, 24 Nov 2026 20:00:00 +0000
To: bob@x.example
From: WordPress <wordpress@example.com>
Reply-To: "commenter@y.example" <commenter@y.example>
Subject: =?us-ascii?Q?[Example]_Comment:_=22Hello_world!=22?=
Message-ID: <AbCdEf@example.com>
X-Mailer: PHPMailer 6.9.1 (https://github.com/PHPMailer/PHPMailer)
MIME-Version: 1.0
Content-Type: text/plain; charset=UTF-8

New comment on your post "Hello world!"
Author: Zoë (IP address: 192.0.2.1)
Comment:\x20
Nice & <b>bold</b>

You can see it here:
https://example.com/hello-world/#comments
""",
    {
        "from": "wordpress@example.com",
        "name": "WordPress",
        "subject": '[Example] Comment: "Hello world!"',
        "reply": "commenter@y.example",
        "headers": {
            "Message-ID": "<AbCdEf@example.com>",
            "X-Mailer": "PHPMailer 6.9.1 (https://github.com/PHPMailer/PHPMailer)",
        },
        "body": '<div style="word-wrap:break-word;overflow-wrap:anywhere">New comment on your post "Hello world!"<br>\n'
        "Author: Zoë (IP address: 192.0.2.1)<br>\nComment: <br>\nNice &amp; &lt;b&gt;bold&lt;/b&gt;<br>\n<br>\n"
        'You can see it here:<br>\n<a href="https://example.com/hello-world/#comments">https://example.com/hello-world/#comments</a></div>',
    },
)
good(
    "cron-notice",
    """From: root (Cron Daemon) <root@example.com>
To: bob@x.example
Subject: Cron <root@host> test -x /usr/sbin/anacron || run-parts /etc/cron.daily
MIME-Version: 1.0
Content-Type: text/plain; charset=UTF-8
Content-Transfer-Encoding: 8bit
X-Cron-Env: <SHELL=/bin/sh>
X-Cron-Env: <PATH=/usr/bin:/bin>
Message-Id: <20261124200000.ABC@example.com>

/etc/cron.daily/backup:
\x1b[31merror\x1b[0m: disk full
""",
    {
        "from": "root@example.com",
        "name": "root (Cron Daemon)",
        "subject": "Cron <root@host> test -x /usr/sbin/anacron || run-parts /etc/cron.daily",
        "headers": {
            "X-Cron-Env": "<SHELL=/bin/sh>, <PATH=/usr/bin:/bin>",
            "Message-Id": "<20261124200000.ABC@example.com>",
        },
        "body": div("/etc/cron.daily/backup:<br>\nerror: disk full"),
    },
)
good(
    "jenkins-html",
    """From: Jenkins <jenkins@example.com>
To: bob@x.example
Message-ID: <1.2@example.com>
Subject: =?UTF-8?Q?Build_failed_in_Jenkins:_app_#42?=
MIME-Version: 1.0
Content-Type: multipart/mixed;
\tboundary="----=_Part_1_2.3"
Auto-submitted: auto-generated
X-Jenkins-Job: app
List-ID: <app.example.com>

------=_Part_1_2.3
Content-Type: text/html; charset=UTF-8
Content-Transfer-Encoding: quoted-printable

<a href=3D"https://ci.example.com/job/app/42/">#42</a> =E2=9D=8C
------=_Part_1_2.3
Content-Type: application/octet-stream; name=build.log
Content-Transfer-Encoding: 7bit
Content-Disposition: attachment; filename=build.log

line 1
line 2

------=_Part_1_2.3--
""",
    {
        "from": "jenkins@example.com",
        "name": "Jenkins",
        "subject": "Build failed in Jenkins: app #42",
        "headers": {
            "Message-ID": "<1.2@example.com>",
            "Auto-submitted": "auto-generated",
            "X-Jenkins-Job": "app",
            "List-ID": "<app.example.com>",
        },
        "body": '<a href="https://ci.example.com/job/app/42/">#42</a> ❌',
        "attachments": [file("build.log", "line 1\r\nline 2\r\n", "application/octet-stream")],
    },
)
good(
    "fax-server",
    HEAD.replace("Subject: s", "Subject: Fax from +49 221 1234567")
    + f'MIME-Version: 1.0\nContent-Type: image/tiff; name="fax 0001.tif"\nContent-Transfer-Encoding: base64\n'
    f'Content-Disposition: attachment; filename="fax 0001.tif"\n\n{wrapped(b"II*" + bytes(5))}\n',
    {
        "subject": "Fax from +49 221 1234567",
        "body": div("<br>"),
        "attachments": [file("fax 0001.tif", b"II*" + bytes(5), "image/tiff")],
    },
)
good(
    "ups-notice-of-1982",
    "From: UPS@example.com\nTo: bob@x.example\nSubject: UPS On Battery\nDate: 24 Nov 26 20:00:00\n\nUPS: on battery.\n.\n..\n",
    {"from": "UPS@example.com", "subject": "UPS On Battery", "body": div("UPS: on battery.<br>\n.<br>\n..")},
)
