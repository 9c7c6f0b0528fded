"""What an SMTP session needs from the rest of the ingress, as one interface."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from ingress.replies import Reply
from shared.projects import Project


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """Who authenticated on a session. The secret lives only as long as the session does and is never printed."""

    project: Project
    secret: str = field(repr=False)


@dataclass(slots=True, kw_only=True)
class Submission:
    """One complete mail transaction: the envelope and the message, after the end of data.

    Not frozen, so that the backend, which alone holds it, can let go of the message.
    """

    login: Login
    envelope_from: str
    """Address of MAIL FROM, without angle brackets."""
    recipients: tuple[str, ...]
    """Addresses of RCPT TO, in order, each once."""
    data: bytes = field(repr=False)
    """The message as sent, dot-unstuffed, lines ended by CRLF."""
    session: str
    """The connection's id, for logs."""
    peer: str
    """The client's IP address, for logs."""


class Backend(Protocol):
    """Every method raises ``SmtpError`` to refuse; any other exception is a defect, answered 451."""

    async def authenticate(self, secret: str, *, peer: str) -> Login:
        """The login for a project's secret. 535 for a wrong one, 454 when the database cannot answer."""
        ...

    async def check_sender(self, login: Login, domain: str) -> None:
        """Refuses a ``domain`` (lower case, A-labels) that is not verified for the project: 550, 451 on an outage."""
        ...

    async def accept(self, submission: Submission) -> Reply:
        """Parse, preflight, enqueue. Returns the 250 that carries the message's id once the queue has the message."""
        ...
