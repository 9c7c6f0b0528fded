"""A bare SMTP client for transcripts: says exactly what it is told, byte by byte."""

from __future__ import annotations

import base64
import socket
import ssl

from sandbox.stack import DEMO_SECRET


class Wire:
    """One connection, of TLS from its first byte with ``tls``; ``greeting`` is the server's first reply.

    ``source``: the loopback address to come from.
    """

    def __init__(
        self,
        port: int,
        *,
        read_greeting: bool = True,
        tls: ssl.SSLContext | None = None,
        source: str = "127.0.0.1",
    ) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30, source_address=(source, 0))
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")
        self._file = self.socket.makefile("rb")
        self.greeting = self.reply() if read_greeting else ""

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def reply(self) -> str:
        """One whole reply, its lines joined by LF; "" when the server has closed."""
        lines: list[str] = []
        while True:
            line = self._file.readline().decode()
            lines.append(line.rstrip("\r\n"))
            if not line or line[3:4] != "-":
                return "\n".join(lines)

    def say(self, line: str) -> str:
        """Send one line, return the reply."""
        self.send(line.encode() + b"\r\n")
        return self.reply()

    def start_tls(self, context: ssl.SSLContext, *, server_hostname: str = "localhost") -> None:
        """EHLO, STARTTLS and the handshake."""
        self.say("EHLO test")
        answer = self.say("STARTTLS")
        assert answer.startswith("220"), answer
        self._file.close()
        self.socket = context.wrap_socket(self.socket, server_hostname=server_hostname)
        self._file = self.socket.makefile("rb")

    def login(self, secret: str = DEMO_SECRET, user: str = "plunk") -> str:
        self.say("EHLO test")
        return self.say("AUTH PLAIN " + base64.b64encode(f"\0{user}\0{secret}".encode()).decode())

    def message(
        self, data: bytes, *, sender: str = "a@example.com", recipients: tuple[str, ...] = ("b@x.example",)
    ) -> str:
        """One transaction; the reply to the end of data, or the first refusal."""
        for line in (f"MAIL FROM:<{sender}>", *(f"RCPT TO:<{r}>" for r in recipients), "DATA"):
            answer = self.say(line)
            if answer[0] not in "23":
                return answer
        self.send(data + b"\r\n.\r\n")
        return self.reply()

    def is_closed(self) -> bool:
        """Whether the server has closed its side: waits for it."""
        return self._file.readline() == b""

    def close(self) -> None:
        self._file.close()  # It would keep the connection open.
        self.socket.close()

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def simple(subject: str = "Hello", body: str = "Text", sender: str = "a@example.com", extra: str = "") -> bytes:
    """A small message."""
    return f"From: {sender}\r\nTo: b@x.example\r\nSubject: {subject}\r\n{extra}\r\n{body}".encode()
