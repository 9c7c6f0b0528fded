"""What SMTP commands say: the arguments of MAIL and RCPT and the exchanges of AUTH, read by pure functions."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from ingress.replies import Replies
from shared.addresses import api_address, split_address

_PATH: Final = re.compile(
    r"""(?:<(?:@[^:<>]*:)?(?P<path>(?:"(?:\\.|[^"\\])*"|[^<>"\s])*)>|(?P<bare>[^\s<>]+))(?:\s+(?P<parameters>.*))?""",
    re.DOTALL,
)
"""A path of RFC 5321 section 4.1.2, its source route left out; angle brackets may be missing, as in old programs."""

MAIL_PARAMETERS: Final = frozenset({"SIZE", "BODY", "SMTPUTF8", "AUTH", "RET", "ENVID"})
RCPT_PARAMETERS: Final = frozenset({"NOTIFY", "ORCPT"})
"""Parameters that are used or harmless: Postfix and Exchange send those of DSN and AUTH unasked (RFC 3461, 4954)."""

MAX_PARAMETERS: Final = 16
"""Parameters of one MAIL or RCPT."""

BODY_VALUES: Final = frozenset({"7BIT", "8BITMIME"})

USER: Final = "plunk"
"""The one user name, in any case; the password is the project's secret."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail:
    """The arguments of a MAIL command."""

    address: str
    domain: str
    """Lower-case A-labels."""
    size: int
    """Bytes, as the client says; 0 = not said."""
    smtputf8: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What an AUTH exchange brought."""

    user: str
    password: str = field(repr=False)
    acts_as: str = ""
    """The authorization identity of PLAIN: "" or the user itself, since nobody may act as another."""

    @property
    def is_known_user(self) -> bool:
        return self.user.lower() == USER and self.acts_as.lower() in ("", USER)


def parse_mail(argument: str) -> Mail:
    """Reads ``FROM:<address> [parameters]``. Raises ``SmtpError`` 501, 550, 553 or 555."""
    address, parameters = _path(argument, "FROM", "MAIL FROM:<address>", MAIL_PARAMETERS)
    if not address:
        raise Replies.SENDER_EMPTY.error()
    try:
        _, domain = split_address(address)
    except ValueError:
        raise Replies.SENDER_SYNTAX.error() from None
    smtputf8 = "SMTPUTF8" in parameters
    if not address.isascii() and not smtputf8:
        raise Replies.SMTPUTF8_NEEDED.error()
    size = parameters.get("SIZE", "") or "0"
    if not (size.isascii() and size.isdigit() and len(size) <= 20):
        raise Replies.SYNTAX.error(syntax="SIZE=<bytes>")
    body = parameters.get("BODY", "7BIT").upper()
    if body not in BODY_VALUES:
        raise Replies.PARAMETER_UNKNOWN.error(parameter=f"BODY={body}")
    return Mail(address=address, domain=domain, size=int(size), smtputf8=smtputf8)


def parse_rcpt(argument: str) -> str:
    """Reads ``TO:<address> [parameters]``: the address as the API takes it. Raises ``SmtpError`` 501, 553 or 555."""
    address, _ = _path(argument, "TO", "RCPT TO:<address>", RCPT_PARAMETERS)
    try:
        return api_address(address)
    except ValueError:
        raise Replies.RECIPIENT_SYNTAX.error() from None


def _path(argument: str, keyword: str, syntax: str, known: frozenset[str]) -> tuple[str, Mapping[str, str]]:
    name, colon, rest = argument.partition(":")
    if not colon or name.strip().upper() != keyword:
        raise Replies.SYNTAX.error(syntax=syntax)
    match = _PATH.fullmatch(rest.strip())
    if not match:
        raise Replies.SYNTAX.error(syntax=syntax)
    parameters: dict[str, str] = {}
    words = (match["parameters"] or "").split()
    if len(words) > MAX_PARAMETERS:
        raise Replies.SYNTAX.error(syntax=f"{syntax}, at most {MAX_PARAMETERS} parameters")
    for word in words:
        key, _, value = word.partition("=")
        if key.upper() not in known:
            raise Replies.PARAMETER_UNKNOWN.error(parameter=key)
        if key.upper() in parameters:
            raise Replies.SYNTAX.error(syntax=f"{syntax}, each parameter once")
        parameters[key.upper()] = value
    return match["path"] if match["path"] is not None else match["bare"], parameters


def decode_base64(line: bytes) -> str:
    """Text of a base64 line; ``=`` alone is the empty string (RFC 4954 section 4). Raises ``SmtpError`` 501."""
    if line == b"=":
        return ""
    try:
        return base64.b64decode(line, validate=True).decode("utf-8")
    except (binascii.Error, UnicodeDecodeError):
        raise Replies.AUTH_BASE64.error() from None


def plain_credentials(response: bytes) -> Credentials:
    """Credentials of an AUTH PLAIN response, ``authzid NUL user NUL password`` (RFC 4616). Raises ``SmtpError`` 501."""
    parts = decode_base64(response).split("\0")
    if len(parts) != 3:
        raise Replies.AUTH_BASE64.error()
    return Credentials(acts_as=parts[0], user=parts[1], password=parts[2])


def login_password(line: bytes) -> str:
    """The password line of AUTH LOGIN: base64 or, as people type it by hand, the secret in plain text.

    A secret holds ``_``, which is not base64, so the two cannot be confused. Raises ``SmtpError`` 501.
    """
    if b"_" in line:
        try:
            return line.decode("ascii").strip()
        except UnicodeDecodeError:
            raise Replies.AUTH_BASE64.error() from None
    return decode_base64(line)
