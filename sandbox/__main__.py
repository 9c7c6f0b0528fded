"""``python -m sandbox``: the whole relay on this machine, one real message through it, then open for more."""

from __future__ import annotations

import contextlib
import os
import signal
import smtplib
import ssl
import sys
import tempfile
import threading
from email.message import EmailMessage
from pathlib import Path
from typing import Any, Final

from sandbox.processes import ServerFailed, wait_until
from sandbox.stack import DEMO_DOMAIN, DEMO_SECRET, ROOT, UNVERIFIED_DOMAIN, Stack

PREFERRED: Final = {"submission": 2587, "secure": 2465, "api": 3000, "redis": 6390, "postgres": 5440}
ENV_FILE: Final = ROOT / ".sandbox" / "env"


def say(text: str = "") -> None:
    print(text, flush=True)


def demo_message() -> EmailMessage:
    """A message with everything in it: names, accents, text and HTML, an attachment."""
    message = EmailMessage()
    message["From"] = f"Zoë from the sandbox <hello@{DEMO_DOMAIN}>"
    message["To"] = "Jürgen Recipient <recipient@example.net>"
    message["Reply-To"] = f"support@{DEMO_DOMAIN}"
    message["Subject"] = "Grüße — the relay works"
    message["X-Campaign"] = "sandbox"
    message.set_content("Hello Jürgen,\n\n  this came by SMTP.\n")
    message.add_alternative("<h1>Hello Jürgen</h1><p>this came by <b>SMTP</b>.</p>", subtype="html")
    message.add_attachment(b"%PDF-1.4 demo", maintype="application", subtype="pdf", filename="Rechnung für Zoë.pdf")
    return message


def differences(body: dict[str, Any]) -> list[str]:
    """What the API got otherwise than it was sent; empty when the message arrived intact."""
    expected = {
        "from": f"hello@{DEMO_DOMAIN}",
        "name": "Zoë from the sandbox",
        "to": [{"name": "Jürgen Recipient", "email": "recipient@example.net"}],
        "subject": "Grüße — the relay works",
        "reply": f"support@{DEMO_DOMAIN}",
        "headers": {"X-Campaign": "sandbox"},
        "attachments": [
            {
                "filename": "Rechnung für Zoë.pdf",
                "content": "JVBERi0xLjQgZGVtbw==",
                "contentType": "application/pdf",
            }
        ],
    }
    wrong = [f"{key}: {body.get(key)!r}" for key, value in expected.items() if body.get(key) != value]
    if body.get("body", "").strip() != "<h1>Hello Jürgen</h1><p>this came by <b>SMTP</b>.</p>":
        wrong.append(f"body: {body.get('body')!r}")
    return wrong


def relay_one(stack: Stack) -> bool:
    """Send the demo message by SMTP and wait until the API has it; whether it arrived intact."""
    context = ssl.create_default_context(cafile=str(stack.certificates / "fullchain.pem"))
    say(f"→ connecting to localhost:{stack.port_submission}, STARTTLS")
    with smtplib.SMTP("localhost", stack.port_submission, timeout=30) as client:
        client.ehlo()
        client.starttls(context=context)
        client.ehlo()
        say("→ AUTH as plunk with the demo project's secret")
        client.login("plunk", DEMO_SECRET)
        client.mail(f"hello@{DEMO_DOMAIN}")
        client.rcpt("recipient@example.net")
        code, text = client.data(demo_message().as_bytes())
    say(f"← {code} {text.decode()}")
    if code != 250:
        return False
    message_id = text.decode().rsplit(" ", 1)[-1]
    wait_until(
        lambda: any(mail["idempotency_key"] == message_id for mail in stack.api.sent()),
        timeout=30,
        what="the message at the API",
    )
    mail = next(mail for mail in stack.api.sent() if mail["idempotency_key"] == message_id)
    say("✓ the API received:")
    for key, value in mail["body"].items():
        say(f"    {key:<12} {str(value)[:100]}")
    wrong = differences(mail["body"])
    for line in wrong:
        say(f"✗ not as it was sent: {line}")
    return not wrong


def explain(stack: Stack) -> None:
    """Lines to copy for sending more."""
    port, sender = stack.port_submission, f"hello@{DEMO_DOMAIN}"
    say(f"""
Inbox                    {stack.api.url}/
SMTP with STARTTLS       localhost:{port}
SMTP with implicit TLS   localhost:{stack.port_secure}
User and password        plunk / {DEMO_SECRET}
Verified domain          {DEMO_DOMAIN} (and {UNVERIFIED_DOMAIN}, which is not)

swaks --server localhost:{port} --tls --auth PLAIN --auth-user plunk --auth-password {DEMO_SECRET} \\
      --from {sender} --to you@example.net --header 'Subject: from swaks'

printf 'From: {sender}\\r\\nTo: you@example.net\\r\\nSubject: from curl\\r\\n\\r\\nHello\\r\\n' | \\
curl -k --ssl-reqd smtp://localhost:{port} -u plunk:{DEMO_SECRET} \\
     --mail-from {sender} --mail-rcpt you@example.net -T -

python3 -c "import smtplib,ssl; c=smtplib.SMTP('localhost',{port}); \\
c.starttls(context=ssl._create_unverified_context()); c.login('plunk','{DEMO_SECRET}'); \\
c.sendmail('{sender}',['you@example.net'],'From: {sender}\\nSubject: from Python\\n\\nHello')"

With these settings in the environment (set -a; . {ENV_FILE.relative_to(ROOT)}; set +a) honcho start runs
the Procfile, and python -m forwarder status shows the queue.""")


def env_of(stack: Stack) -> str:
    """The relay's settings as a file for the shell."""
    return "".join(f"{key}={value}\n" for key, value in stack.environ.items())


def main() -> int:
    once = os.environ.get("ONCE", "") not in ("", "0")
    stop = threading.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda *_: stop.set())
    with tempfile.TemporaryDirectory(prefix="plunk-smtp-sandbox-") as directory:
        stack = Stack(Path(directory), preferred_ports=PREFERRED, LOG_FORMAT="pretty")
        for name, found in (
            ("submission", stack.port_submission),
            ("secure", stack.port_secure),
            ("api", stack.api.port),
            ("redis", stack.redis.port),
            ("postgres", stack.postgres.port),
        ):
            if found != PREFERRED[name]:
                say(f"! port {PREFERRED[name]} ({name}) is busy: using {found}")
        try:
            say("→ starting Redis, PostgreSQL and the stand-in for the Plunk API")
            stack.start_services()
            say("→ starting the ingress and the forwarder")
            stack.start_ingress()
            stack.start_forwarder()
            arrived = relay_one(stack)
            say("✓ the message arrived intact" if arrived else "✗ the message did not arrive as it was sent")
            if once or not arrived:
                return 0 if arrived else 1
            ENV_FILE.parent.mkdir(exist_ok=True)
            ENV_FILE.write_text(env_of(stack), "utf-8")
            explain(stack)
            say("\nCtrl-C stops everything.")
            stop.wait()
            return 0
        except BrokenPipeError:
            return 1  # whoever read this is gone: `make sandbox | head`
        except (ServerFailed, TimeoutError, smtplib.SMTPException, OSError) as error:
            say(f"✗ {error}")
            say(stack.ingress.process.tail())
            say(stack.forwarder.process.tail())
            return 1
        finally:
            # Another run beside this one may have left its own there.
            if ENV_FILE.exists() and ENV_FILE.read_text("utf-8") == env_of(stack):
                ENV_FILE.unlink()
            with contextlib.suppress(BrokenPipeError):
                say("→ stopping everything")
            stack.stop()


if __name__ == "__main__":
    sys.exit(main())
