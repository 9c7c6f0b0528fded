"""SMTP clients that behave as real ones do: a 250 is a promise, anything else means the same message again later."""

from __future__ import annotations

import contextlib
import email.policy
import random
import re
import smtplib
import socket
import struct
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import Final

from sandbox.stack import DEMO_SECRET

SENDER: Final = "a@example.com"
LARGE_SHARE: Final = 0.003
"""Of all messages, those with an attachment of 200 kB, and as many with one of ``LARGEST_BYTES``."""

LARGEST_BYTES: Final = (1_000_000, 3_000_000)
"""Their bodies lie in Redis in pieces."""

HANG_UP_SHARE: Final = 0.02
"""Of all tries, those in which the client hangs up somewhere between DATA and the reply."""

REPEAT_SHARE: Final = 0.01
"""Of all promises, those after which the client sends again as if it had not heard them."""

REPLY_TIMEOUT: Final = 60.0
"""Seconds that a client waits for a reply; RFC 5321 asks for ten minutes, an impatient one is the harder test."""

QUEUED_ID: Final = re.compile(rb"[0-9a-f]{32}")


@dataclass(slots=True, kw_only=True)
class Letter:
    """One message of a client, for as long as it takes to be taken."""

    token: str
    data: bytes
    recipients: tuple[str, ...]
    tries: int = 0
    not_before: float = 0.0
    is_unsure: bool = False
    """At some try the client could not tell whether the relay had taken it."""


@dataclass(slots=True)
class Ledger:
    """What all clients know together."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    given: set[str] = field(default_factory=set)
    promised: dict[str, str] = field(default_factory=dict)
    """Token → the id in the 250."""
    unsure: set[str] = field(default_factory=set)
    """Tokens whose outcome was unknown to the client at some try."""
    events: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    def count(self, event: str) -> None:
        with self.lock:
            self.events[event] += 1

    def violate(self, what: str) -> None:
        with self.lock:
            self.violations.append(what)


class Client(threading.Thread):
    """Sends until ``closing`` is set, then until everything it still has was taken or ``deadline`` has passed."""

    def __init__(
        self,
        name: str,
        port: int,
        ledger: Ledger,
        *,
        seed: str,
        pause: float,
        hang_ups: float = HANG_UP_SHARE,
        repeats: float = REPEAT_SHARE,
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._hang_ups = hang_ups
        self._repeats = repeats
        self._port = port
        self._ledger = ledger
        self._random = random.Random(seed)
        self._pause = pause
        self._smtp: smtplib.SMTP | None = None
        self._left_on_connection = 0
        self._outbox: list[Letter] = []
        self._number = 0
        self.closing = threading.Event()
        self.deadline = float("inf")

    @property
    def waiting(self) -> int:
        """Letters that were not taken yet."""
        return len(self._outbox)

    def run(self) -> None:
        while not self.closing.is_set():
            if len(self._outbox) < 200:
                self._outbox.append(self._write())
            self._send_due()
            time.sleep(self._random.uniform(0, 2 * self._pause))
        while self._outbox and time.monotonic() < self.deadline:
            self._send_due()
            time.sleep(0.05)
        self._drop_connection()

    def _write(self) -> Letter:
        self._number += 1
        token = f"{self.name}-{self._number}"
        count = self._random.choice((1, 1, 1, 2, 5))
        recipients = tuple(f"r{number}@x.example" for number in range(count))
        message = EmailMessage()
        message["From"], message["To"], message["Subject"] = SENDER, ", ".join(recipients), token
        message["Message-ID"] = f"<{token}@soak.example>"
        message.set_content(f"Message {token}\n")
        drawn = self._random.random()
        if drawn < 2 * LARGE_SHARE:
            size = 200_000 if drawn < LARGE_SHARE else self._random.randint(*LARGEST_BYTES)
            message.add_attachment(
                self._random.randbytes(size), maintype="application", subtype="octet-stream", filename="a.bin"
            )
        with self._ledger.lock:
            self._ledger.given.add(token)
        return Letter(token=token, data=message.as_bytes(policy=email.policy.SMTP), recipients=recipients)

    def _send_due(self) -> None:
        now = time.monotonic()
        for letter in [one for one in self._outbox if one.not_before <= now]:
            letter.tries += 1
            if self._try(letter):
                self._outbox.remove(letter)
                continue
            self._drop_connection()
            letter.not_before = time.monotonic() + self._random.uniform(0.5, min(8.0, 1.0 * 2**letter.tries))
            if letter.is_unsure:
                with self._ledger.lock:
                    self._ledger.unsure.add(letter.token)
            break

    def _try(self, letter: Letter) -> bool:
        """One try; whether the letter was taken."""
        try:
            smtp = self._connection()
            if smtp is None:
                return False
            for code, text in self._envelope(smtp, letter):
                if code != 250:
                    return self._refused("envelope", letter, code, text)
        except (OSError, smtplib.SMTPException) as error:
            return self._lost("before the data", error)
        if self._random.random() < self._hang_ups:
            letter.is_unsure = True
            self._hang_up(smtp, letter)
            return False
        try:
            code, text = smtp.data(letter.data)
        except smtplib.SMTPDataError as error:
            return self._refused("DATA", letter, error.smtp_code, error.smtp_error)
        except (OSError, smtplib.SMTPException) as error:
            letter.is_unsure = True
            return self._lost("after the data", error)
        if code != 250:
            # The relay may still have taken it: Redis can have done what it did not acknowledge in time.
            letter.is_unsure = True
            return self._refused("end of data", letter, code, text)
        self._promised(letter, text)
        return True

    def _envelope(self, smtp: smtplib.SMTP, letter: Letter):  # type: ignore[no-untyped-def]
        yield smtp.mail(SENDER)
        for recipient in letter.recipients:
            yield smtp.rcpt(recipient)

    def _promised(self, letter: Letter, text: bytes) -> None:
        found = QUEUED_ID.search(text)
        if found is None:
            self._ledger.violate(f"{letter.token}: 250 without an id: {text!r}")
            return
        queued_id = found[0].decode()
        with self._ledger.lock:
            self._ledger.events["250"] += 1
            before = self._ledger.promised.setdefault(letter.token, queued_id)
        if before != queued_id:
            self._ledger.violate(f"{letter.token}: promised as {before}, then as {queued_id}")
        elif self._random.random() < self._repeats:
            self._ledger.count("250 not heard, sent again")
            letter.not_before = 0.0
            again = Letter(token=letter.token, data=letter.data, recipients=letter.recipients, is_unsure=True)
            self._outbox.append(again)

    def _connection(self) -> smtplib.SMTP | None:
        if self._smtp is not None and self._left_on_connection > 0:
            self._left_on_connection -= 1
            return self._smtp
        self._drop_connection()
        smtp = smtplib.SMTP(timeout=REPLY_TIMEOUT)
        self._smtp = smtp
        try:
            code, _ = smtp.connect("127.0.0.1", self._port)
        except (OSError, smtplib.SMTPException):
            self._ledger.count("no connection")
            return None
        if code != 220:
            self._ledger.count(f"{code} at the greeting")
            return None
        try:
            smtp.login("plunk", DEMO_SECRET)
        except smtplib.SMTPAuthenticationError as error:
            if error.smtp_code >= 500:
                self._ledger.violate(f"AUTH: {error.smtp_code} {error.smtp_error!r}")
            self._ledger.count(f"{error.smtp_code} at AUTH")
            return None
        self._left_on_connection = self._random.choice((0, 3, 20, 100))
        return smtp

    def _drop_connection(self) -> None:
        if self._smtp is not None:
            with contextlib.suppress(OSError):
                self._smtp.close()
        self._smtp = None

    def _hang_up(self, smtp: smtplib.SMTP, letter: Letter) -> None:
        """Say DATA and a part of the message, or all of it, and go without waiting for the reply."""
        self._ledger.count("client hung up")
        whole = smtplib._quote_periods(letter.data) + b".\r\n"  # type: ignore[attr-defined]
        cut = self._random.choice((len(whole), len(whole) - 1, len(whole) - 2, self._random.randrange(len(whole))))
        with contextlib.suppress(OSError, smtplib.SMTPException):
            smtp.docmd("DATA")
            sock = smtp.sock
            assert isinstance(sock, socket.socket)
            sock.sendall(whole[:cut])
            time.sleep(self._random.choice((0.0, 0.001, 0.01, 0.1)))
            if self._random.random() < 0.5:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _refused(self, where: str, letter: Letter, code: int, text: bytes | str) -> bool:
        self._ledger.count(f"{code} at {where}")
        if code >= 500:
            self._ledger.violate(f"{letter.token}: {code} at {where}: {text!r}")
        return False

    def _lost(self, where: str, error: Exception) -> bool:
        self._ledger.count(f"connection lost {where}" if not isinstance(error, TimeoutError) else f"timeout {where}")
        return False
