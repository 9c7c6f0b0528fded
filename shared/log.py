"""Logging for both processes: structlog over the standard library, pretty on a terminal, one JSON object a line else.

Events are the specification's sentences; everything else is a field. ``message_id`` and ``session`` run through every
line of a message's or a connection's life.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from typing import Any, Final, Literal, cast

import structlog
from structlog.typing import EventDict, WrappedLogger

SECRET: Final = re.compile(r"(?i)\bsk_[A-Za-z0-9_-]+|(?<=://)[^/\s]*:[^/\s]+(?=@)|(?<=bearer )\S+")
"""What must never be printed: a project's secret, the user part of a URL (to its last @), a bearer token."""

DEEPEST: Final = 20
"""Containers in containers that are looked into; what lies deeper is not printed at all."""


def redact(text: str) -> str:
    """``text`` with every secret-looking part replaced by ``[redacted]``."""
    return SECRET.sub("[redacted]", text)


def redact_all(value: Any, *, depth: int = 0) -> Any:
    """``value`` with every secret-looking part of its texts replaced, however deep they lie.

    An object that is no text, number or collection becomes its redacted ``repr``: that is what a log would print of it.
    """
    if isinstance(value, str):
        return redact(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return redact(bytes(value).decode("utf-8", "backslashreplace"))
    if depth >= DEEPEST:
        return "[…]"
    if isinstance(value, Mapping):
        return {redact(str(key)): redact_all(item, depth=depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [redact_all(item, depth=depth + 1) for item in value]
    return redact(repr(value))


def _redact_event(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """The last line of defence: no code logs a secret on purpose, but an exception's text may hold one."""
    for key, value in event.items():
        # structlog's own fields (the record, the name of the logger) are taken out before anything is printed.
        if not key.startswith("_"):
            event[key] = redact_all(value)
    return event


def configure(log_format: Literal["auto", "pretty", "json"], level: str, *, process: str) -> None:
    """Set up logging for this process; call once, before anything logs. ``process``: ingress or forwarder."""
    pretty = log_format == "pretty" or (log_format == "auto" and sys.stderr.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _redact_event,
    ]
    renderer: Any = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        if pretty
        # As it is written, so that a sentence can be searched for: "a@x → b@y", not "a@x \\u2192 b@y".
        else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer]
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("mail.log", "rq", "urllib3", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(process=process)


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger named after its module."""
    return cast(structlog.stdlib.BoundLogger, structlog.get_logger(name))
