"""X-Plunk headers: what clients that can only speak SMTP say to the API; taken out of the mail."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

import orjson

from ingress.message.headers import Headers, decode_words
from ingress.replies import Replies

_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_KEY: Final = re.compile(r"[\x20-\x7e]{1,255}")
_BOOLEANS: Final = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """What the X-Plunk headers of one message ask for."""

    template: str | None = None
    data: dict[str, Any] | None = None
    subscribed: bool | None = None
    idempotency_key: str | None = None
    drop: bool = False

    def api_fields(self) -> dict[str, Any]:
        """The API's fields; the idempotency key is a header of the call, and a dropped message is never sent."""
        fields = {"template": self.template, "data": self.data, "subscribed": self.subscribed}
        return {name: value for name, value in fields.items() if value is not None}


def read_control(headers: Headers) -> Control:
    """Raises ``SmtpError`` 550 naming the header and what it must be."""
    values = {name.lower(): decode_words(value).strip() for name, value in headers.fields}
    template = values.get("x-plunk-template")
    if template is not None and not _UUID.fullmatch(template):
        raise Replies.CONTROL_HEADER.error(header="X-Plunk-Template", reason="must be a template's UUID")
    key = values.get("x-plunk-idempotency-key")
    if key is not None and not _KEY.fullmatch(key):
        raise Replies.CONTROL_HEADER.error(
            header="X-Plunk-Idempotency-Key", reason="must be 1 to 255 printable ASCII characters"
        )
    return Control(
        template=template,
        data=_json_object(values.get("x-plunk-data")),
        subscribed=_boolean("X-Plunk-Subscribed", values.get("x-plunk-subscribed")),
        idempotency_key=key,
        drop=_boolean("X-Plunk-Drop", values.get("x-plunk-drop")) or False,
    )


def _json_object(value: str | None) -> dict[str, Any] | None:
    if value is None:
        return None
    try:
        parsed = orjson.loads(value)
    except orjson.JSONDecodeError:
        parsed = None
    if not isinstance(parsed, dict):
        raise Replies.CONTROL_HEADER.error(header="X-Plunk-Data", reason="must be a JSON object")
    return parsed


def _boolean(header: str, value: str | None) -> bool | None:
    if value is None:
        return None
    if value.lower() not in _BOOLEANS:
        raise Replies.CONTROL_HEADER.error(header=header, reason="must be true or false")
    return _BOOLEANS[value.lower()]
