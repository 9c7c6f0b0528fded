"""Every reply the relay gives of its own accord, as one table, and the error that carries one.

A reply is a three-digit code (RFC 5321 section 4.2), an enhanced status code (RFC 3463, RFC 5248) and a text that a
client may show to a person. What a client must not see (causes, addresses of servers, secrets) goes to the log, never
into a reply. ``docs/smtp-replies.md`` is this table in prose; a test reads both.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Final

MAX_TEXT: Final = 400
"""Longest text of a reply in characters: with codes it stays under the 512 octets of RFC 5321 section 4.5.3.1.5."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One SMTP reply: ``code`` 200-599, ``enhanced`` as ``"5.7.1"`` or ``""`` where RFC 2034 wants none, one line."""

    code: int
    enhanced: str
    text: str
    _line: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Made once: most replies are said many thousand times.
        object.__setattr__(self, "_line", one_line(str(self)).encode("ascii", "replace") + b"\r\n")

    def __str__(self) -> str:
        return f"{self.code} {self.enhanced} {self.text}" if self.enhanced else f"{self.code} {self.text}"

    def encode(self) -> bytes:
        """The reply as one line of the wire: printable ASCII, no CR or LF inside, ended by CRLF."""
        return self._line

    def filled(self, **values: object) -> Reply:
        """This reply with its ``{placeholders}`` filled in; every value is cut and folded to one line."""
        text = self.text.format(**{k: one_line(str(v)) for k, v in values.items()})
        return Reply(self.code, self.enhanced, text)


def one_line(text: str) -> str:
    """``text`` without control characters, at most ``MAX_TEXT`` long: nothing from outside may start a reply line."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() else " " for c in text)
    return text[:MAX_TEXT].rstrip()


class SmtpError(Exception):
    """A refusal that carries its SMTP reply; ``cause`` and ``log_fields`` are for the log, never for the client."""

    def __init__(self, reply: Reply, *, cause: str = "", **log_fields: object) -> None:
        super().__init__(str(reply))
        self.reply = reply
        self.cause = cause
        self.log_fields = log_fields


class Replies(Enum):
    """The table. A member's value is its ``Reply``; ``{…}`` is filled in when it is given."""

    # Connection and session
    GREETING = Reply(220, "", "{host} Plunk SMTP Relay")
    BYE = Reply(221, "2.0.0", "Bye")
    OK = Reply(250, "2.0.0", "OK")
    SHUTTING_DOWN = Reply(421, "4.3.2", "Server is shutting down, try again")
    IDLE_TIMEOUT = Reply(421, "4.4.2", "Idle for too long, closing the connection")
    SESSION_TIMEOUT = Reply(421, "4.4.2", "Session took too long, closing the connection")
    TOO_MANY_CONNECTIONS = Reply(421, "4.3.2", "Too many connections, try again later")
    TOO_MANY_ERRORS = Reply(421, "4.7.0", "Too many errors, closing the connection")
    TOO_MANY_COMMANDS = Reply(421, "4.7.0", "Too many commands without a message, closing the connection")
    TROUBLE = Reply(451, "4.3.0", "Temporary server trouble, try again later")
    COMMAND_TOO_LONG = Reply(500, "5.5.6", "Command line too long")
    COMMAND_UNKNOWN = Reply(500, "5.5.1", "Command not recognised")
    COMMAND_BARE_NEWLINE = Reply(500, "5.5.2", "Bare CR, bare LF or NUL in a command; lines end with CRLF")
    SYNTAX = Reply(501, "5.5.4", "Syntax: {syntax}")
    PARAMETER_UNKNOWN = Reply(555, "5.5.4", "Parameter not recognised or not implemented: {parameter}")
    BAD_SEQUENCE = Reply(503, "5.5.1", "Bad sequence of commands: {expected}")
    VRFY = Reply(252, "2.5.2", "Cannot VRFY user, but will accept message and attempt delivery")
    HELP = Reply(214, "2.0.0", "User plunk, password: your project's secret. See RFC 5321 for the commands")
    NOT_IMPLEMENTED = Reply(502, "5.5.1", "Command not implemented")

    # TLS (RFC 3207)
    STARTTLS_READY = Reply(220, "2.0.0", "Ready to start TLS")
    TLS_UNAVAILABLE = Reply(454, "4.7.0", "TLS not available")
    TLS_ACTIVE = Reply(503, "5.5.1", "TLS already active")
    TLS_REQUIRED_FOR_AUTH = Reply(538, "5.7.11", "Encryption required for authentication: use STARTTLS first")
    TLS_REQUIRED = Reply(530, "5.7.0", "Must issue a STARTTLS command first")

    # Authentication (RFC 4954)
    AUTH_OK = Reply(235, "2.7.0", "Authentication succeeded")
    AUTH_INVALID = Reply(535, "5.7.8", "Authentication credentials invalid")
    AUTH_UNAVAILABLE = Reply(454, "4.7.0", "Temporary authentication failure, try again later")
    AUTH_CANCELLED = Reply(501, "5.7.0", "Authentication cancelled")
    AUTH_BASE64 = Reply(501, "5.5.2", "Cannot decode base64")
    AUTH_TOO_LONG = Reply(500, "5.5.6", "Authentication exchange line is too long")
    AUTH_MECHANISM = Reply(504, "5.5.4", "Authentication mechanism not supported: use PLAIN or LOGIN")
    AUTH_TWICE = Reply(503, "5.5.1", "Already authenticated")
    AUTH_FIRST = Reply(530, "5.7.0", "Authentication required")
    AUTH_TOO_MANY = Reply(421, "4.7.0", "Too many failed authentications, closing the connection")

    # Envelope
    SENDER_SYNTAX = Reply(553, "5.1.7", "Sender address is not valid")
    SENDER_EMPTY = Reply(550, "5.1.7", "The null sender <> is not accepted: mail needs a sender with a verified domain")
    SENDER_DOMAIN = Reply(550, "5.7.1", "Sender domain is not verified or not associated with your account")
    SENDER_UNAVAILABLE = Reply(451, "4.3.0", "Sender domain cannot be checked now, try again later")
    RECIPIENT_SYNTAX = Reply(553, "5.1.3", "Recipient address is not valid")
    TOO_MANY_RECIPIENTS = Reply(452, "4.5.3", "Too many recipients: at most {limit} a message")
    SIZE_EXCEEDED = Reply(552, "5.3.4", "Message exceeds the maximum size of {limit} bytes")
    SMTPUTF8_NEEDED = Reply(553, "5.6.7", "Address is not ASCII: SMTPUTF8 required")
    NO_RECIPIENTS = Reply(503, "5.5.1", "No valid recipients")

    # Message
    START_DATA = Reply(354, "", "End data with <CR><LF>.<CR><LF>")
    QUEUED = Reply(250, "2.0.0", "Message accepted: queued as {id}")
    DROPPED = Reply(250, "2.0.0", "Message checked, not sent: X-Plunk-Drop")
    BUSY = Reply(452, "4.3.1", "Server is busy with other uploads, try again later")
    MESSAGE_TOO_COMPLEX = Reply(554, "5.6.0", "Message is too complex: {reason}")
    FROM_MISSING = Reply(550, "5.6.0", "From header is missing or holds no address")
    FROM_DOMAIN = Reply(550, "5.7.1", "Sender domain is not verified or not associated with your account: header From")
    SUBJECT_MISSING = Reply(550, "5.6.0", "Subject is required")
    SUBJECT_TOO_LONG = Reply(550, "5.6.0", "Subject is longer than {limit} characters")
    CONTROL_HEADER = Reply(550, "5.6.0", "{header}: {reason}")
    TOO_MANY_ATTACHMENTS = Reply(552, "5.3.4", "Too many attachments: {count}, at most {limit}")
    ATTACHMENTS_TOO_LARGE = Reply(552, "5.3.4", "Attachments too large: {size} bytes in base64, at most {limit}")
    CALL_TOO_LARGE = Reply(552, "5.3.4", "Message too large for the API: {size} bytes as JSON, at most {limit}")

    # Preflight and queue
    REFUSED = Reply(554, "5.0.0", "Transaction failed: {message}")
    DEFERRED = Reply(451, "4.0.0", "Temporarily refused, try again later: {message}")
    API_UNREACHABLE = Reply(451, "4.4.1", "The API did not answer, try again later")
    QUEUE_UNAVAILABLE = Reply(451, "4.3.0", "The queue is not available, try again later")
    QUEUE_FULL = Reply(452, "4.3.1", "The queue is full, try again later")

    def error(self, *, cause: str = "", log_fields: dict[str, object] | None = None, **values: object) -> SmtpError:
        """The error that carries this reply, its placeholders filled with ``values``."""
        reply = self.value.filled(**values) if values else self.value
        return SmtpError(reply, cause=cause, **(log_fields or {}))
