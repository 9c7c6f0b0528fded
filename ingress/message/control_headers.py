"""X-Plunk headers: what clients that can only speak SMTP say to the API; taken out of the mail."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import orjson

from ingress.message.headers import Headers, decode_words, one_line
from ingress.replies import Replies

PREFIX: Final = "x-plunk-"

_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_KEY: Final = re.compile(r"[\x20-\x7e]{1,255}")
_BOOLEANS: Final = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """What the X-Plunk headers of one message ask for."""

    template: str | None = None
    data: orjson.Fragment | None = None
    """The JSON object as the client wrote it: no number loses a digit on the way."""
    subscribed: bool | None = None
    idempotency_key: str | None = None
    drop: bool = False

    def api_fields(self) -> dict[str, Any]:
        """The API's fields; the idempotency key is a header of the call, and a dropped message is never sent."""
        fields = {"template": self.template, "data": self.data, "subscribed": self.subscribed}
        return {name: value for name, value in fields.items() if value is not None}


NOTHING: Final = Control()


def read_control(headers: Headers) -> Control:
    """Raises ``SmtpError`` 550 naming the header and what it must be."""
    if PREFIX not in "\n".join(headers.first):
        # As in nearly every message.
        return NOTHING
    names = [name for name in headers.first if name.startswith(PREFIX)]
    if not names:
        return NOTHING
    asked: dict[str, Any] = {}
    for name in names:
        if name not in CONTROL_HEADERS:
            raise _malformed(name, "is not a control header; there are " + ", ".join(map(_spelled, CONTROL_HEADERS)))
        values = {one_line(decode_words(value)) for value in headers.get_all(name)}
        if len(values) > 1:
            raise _malformed(name, "occurs twice, with different values")
        field, read, rule = CONTROL_HEADERS[name]
        try:
            asked[field] = read(values.pop())
        except ValueError:
            raise _malformed(name, rule) from None
    return Control(**asked)


def _uuid(value: str) -> str:
    if not _UUID.fullmatch(value):
        raise ValueError
    return value


def _key(value: str) -> str:
    if not _KEY.fullmatch(value):
        raise ValueError
    return value


def _json_object(value: str) -> orjson.Fragment:
    if not isinstance(orjson.loads(value), dict):
        raise ValueError
    return orjson.Fragment(value)


def _boolean(value: str) -> bool:
    if value.lower() not in _BOOLEANS:
        raise ValueError
    return _BOOLEANS[value.lower()]


CONTROL_HEADERS: Final[dict[str, tuple[str, Callable[[str], Any], str]]] = {
    "x-plunk-template": ("template", _uuid, "must be a template's UUID"),
    "x-plunk-data": ("data", _json_object, "must be a JSON object"),
    "x-plunk-subscribed": ("subscribed", _boolean, "must be true or false"),
    "x-plunk-idempotency-key": ("idempotency_key", _key, "must be 1 to 255 printable ASCII characters"),
    "x-plunk-drop": ("drop", _boolean, "must be true or false"),
}
"""By lower-case name: the field of ``Control``, what reads the value (``ValueError``: malformed), and the rule."""


def _malformed(name: str, reason: str) -> Exception:
    return Replies.CONTROL_HEADER.error(header=_spelled(name), reason=reason)


def _spelled(name: str) -> str:
    return "-".join(word.capitalize() for word in name.split("-"))
