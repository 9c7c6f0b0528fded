"""Python's mailers: ``email`` (new and old API), Django, Flask-Mail, emails, redmail, envelope.

``pip install django flask-mail emails redmail envelope`` into a venv of its own, then ``python python_mailers.py OUT``.
"""

from __future__ import annotations

import base64
import email.policy
import json
import sys
from email.encoders import encode_base64
from email.header import Header
from email.message import EmailMessage
from email.mime.base import MIMEBase
from email.mime.image import MIMEImage
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from email.utils import formataddr, formatdate, make_msgid
from pathlib import Path

CASES = json.loads((Path(__file__).parent / "cases.json").read_text("utf-8"))
OUT = Path(sys.argv[1])


def write(library, name, raw):
    raw = raw.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    (OUT / f"{library}-{name}.eml").write_bytes(raw)


def party(p):
    return formataddr((p["name"], p["email"])) if p["name"] else p["email"]


def modern(case, policy):
    from email.headerregistry import Address

    def address(p):
        return Address(p["name"], addr_spec=p["email"])

    m = EmailMessage(policy=policy)
    m["From"] = address(case["from"])
    m["To"] = [address(p) for p in case["to"]]
    if "cc" in case:
        m["Cc"] = [address(p) for p in case["cc"]]
    if "reply" in case:
        m["Reply-To"] = address(case["reply"])
    m["Subject"] = case["subject"]
    m["Date"] = formatdate()
    m["Message-ID"] = make_msgid(domain="example.com")
    for key, value in case.get("headers", {}).items():
        m[key] = value
    m.set_content(case["text"])
    if "html" in case:
        m.add_alternative(case["html"], subtype="html")
        for f in case.get("inline", []):
            main, sub = f["contentType"].split("/")
            m.get_payload()[-1].add_related(
                base64.b64decode(f["content"]),
                main,
                sub,
                cid=f"<{f['cid']}>",
                filename=f["filename"],
                disposition="inline",
            )
    for f in case.get("attachments", []):
        main, sub = f["contentType"].split("/")
        m.add_attachment(base64.b64decode(f["content"]), main, sub, filename=f["filename"])
    return m.as_bytes()


def legacy(case):
    mixed = MIMEMultipart()
    body = MIMEText(case["text"], "plain", "utf-8")
    if "html" in case:
        alternative = MIMEMultipart("alternative")
        alternative.attach(body)
        html = MIMEText(case["html"], "html", "utf-8")
        if "inline" in case:
            related = MIMEMultipart("related")
            related.attach(html)
            for f in case["inline"]:
                image = MIMEImage(base64.b64decode(f["content"]))
                image.add_header("Content-ID", f"<{f['cid']}>")
                image.add_header("Content-Disposition", "inline", filename=f["filename"])
                related.attach(image)
            html = related
        alternative.attach(html)
        body = alternative
    mixed.attach(body)
    for f in case.get("attachments", []):
        main, sub = f["contentType"].split("/")
        part = MIMEBase(main, sub)
        part.set_payload(base64.b64decode(f["content"]))
        encode_base64(part)
        name = f["filename"] if f["filename"].isascii() else ("utf-8", "", f["filename"])
        part.add_header("Content-Disposition", "attachment", filename=name)
        mixed.attach(part)
    mixed["From"] = formataddr((str(Header(case["from"]["name"], "utf-8")), case["from"]["email"]))
    mixed["To"] = ", ".join(party(p) for p in case["to"])
    if "cc" in case:
        mixed["Cc"] = ", ".join(party(p) for p in case["cc"])
    if "reply" in case:
        mixed["Reply-To"] = party(case["reply"])
    mixed["Subject"] = Header(case["subject"], "utf-8")
    mixed["Date"] = formatdate(localtime=True)
    for key, value in case.get("headers", {}).items():
        mixed[key] = value
    return mixed.as_bytes()


def django(case):
    from django.conf import settings

    if not settings.configured:
        settings.configure(EMAIL_USE_LOCALTIME=False, USE_I18N=False)
    from django.core.mail import EmailMultiAlternatives

    m = EmailMultiAlternatives(
        case["subject"],
        case["text"],
        party(case["from"]),
        [party(p) for p in case["to"]],
        cc=[party(p) for p in case.get("cc", [])],
        reply_to=[party(case["reply"])] if "reply" in case else None,
        headers=case.get("headers"),
    )
    if "html" in case:
        m.attach_alternative(case["html"], "text/html")
    for f in case.get("inline", []):
        image = MIMEImage(base64.b64decode(f["content"]))
        image.add_header("Content-ID", f"<{f['cid']}>")
        image.add_header("Content-Disposition", "inline", filename=f["filename"])
        m.attach(image)
    for f in case.get("attachments", []):
        m.attach(f["filename"], base64.b64decode(f["content"]), f["contentType"])
    return m.message().as_bytes()


def flask(case):
    from flask import Flask
    from flask_mail import Mail, Message

    app = Flask("x")
    Mail(app)
    with app.app_context():

        def pair(p):
            return (p["name"], p["email"]) if p["name"] else p["email"]

        m = Message(
            case["subject"],
            [pair(p) for p in case["to"]],
            case["text"],
            case.get("html"),
            sender=pair(case["from"]),
            cc=[pair(p) for p in case.get("cc", [])],
            reply_to=party(case["reply"]) if "reply" in case else None,
            extra_headers=case.get("headers"),
        )
        for f in case.get("inline", []):
            m.attach(
                f["filename"],
                f["contentType"],
                base64.b64decode(f["content"]),
                "inline",
                {"Content-ID": f"<{f['cid']}>"},
            )
        for f in case.get("attachments", []):
            m.attach(f["filename"], f["contentType"], base64.b64decode(f["content"]))
        return m.as_bytes()


def emails_(case):
    import emails

    def pair(p):
        return (p["name"] or None, p["email"])

    m = emails.Message(
        subject=case["subject"],
        text=case["text"],
        html=case.get("html"),
        mail_from=pair(case["from"]),
        mail_to=[pair(p) for p in case["to"]],
        headers=case.get("headers"),
        message_id=make_msgid(domain="example.com"),
    )
    for f in case.get("attachments", []):
        m.attach(data=base64.b64decode(f["content"]), filename=f["filename"])
    return m.as_bytes()


def redmail(case):
    from redmail import EmailSender

    m = EmailSender("localhost", 25).get_message(
        subject=case["subject"],
        sender=party(case["from"]),
        receivers=[party(p) for p in case["to"]],
        text=case["text"],
        html=case.get("html"),
        headers=case.get("headers"),
        attachments={f["filename"]: base64.b64decode(f["content"]) for f in case.get("attachments", [])} or None,
    )
    return m.as_bytes()


def main():
    for name, case in CASES.items():
        for library, make in {
            "python-email": lambda c: modern(c, email.policy.SMTP),
            "python-email-utf8": lambda c: modern(c, email.policy.SMTPUTF8.clone(cte_type="8bit", max_line_length=200)),
            "python-mime": legacy,
            "django": django,
            "flask-mail": flask,
            "emails": emails_,
            "redmail": redmail,
        }.items():
            if library in ("emails", "redmail") and name in ("people", "inline"):
                continue
            if library.startswith("python-email-") and name in ("plain", "inline"):
                continue
            try:
                write(library, name, make(case))
            except Exception as error:
                print(library, name, repr(error)[:200])
    m = EmailMessage(policy=email.policy.SMTP)
    m["From"] = party(CASES["html"]["from"])
    m["To"] = "bob@x.example"
    m["Subject"] = "8bit"
    # Lines short enough not to become quoted-printable.
    m.set_content(CASES["html"]["text"], cte="8bit")
    m.add_alternative("<p>Schöne Grüße, 你好 🎉</p>\n<p>.</p>\n", subtype="html", cte="8bit")
    write("python-email-in-8bit", "html", m.as_bytes())


main()
