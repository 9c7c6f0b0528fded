"""Logging for both processes: structlog over the standard library, pretty on a terminal, one JSON object a line else.

Events are the specification's sentences; everything else is a field. ``message_id`` and ``session`` run through every
line of a message's or a connection's life.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, NoReturn, cast

import orjson
import structlog
from structlog.typing import EventDict, WrappedLogger

from shared.settings import LogFormat

SECRET: Final = re.compile(r"(?i)\bsk_[A-Za-z0-9_-]+|(?<=://)[^/\s]*:[^/\s]+(?=@)|(?<=bearer )\S+")
"""What must never be printed: a project's secret, the user part of a URL (to its last @), a bearer token."""

DEEPEST: Final = 20
"""Containers in containers that are looked into; what lies deeper is not printed at all."""

PLAIN: Final = frozenset({str, int, float, bool, type(None)})
"""Types of values that hold no others."""


def may_hold_secret(text: str) -> bool:
    """Whether ``SECRET`` could find anything: the search costs ten times what this does, and hardly any text may."""
    folded = text.lower()
    return "sk_" in folded or "://" in folded or "bearer " in folded


def redact(text: str) -> str:
    """``text`` with every secret-looking part replaced by ``[redacted]``."""
    return SECRET.sub("[redacted]", text) if may_hold_secret(text) else text


def _json(value: Any, **options: Any) -> str:
    """JSON as it is written, so that a sentence can be searched for: "a@x → b@y", not "a@x \\u2192 b@y"."""
    try:
        return orjson.dumps(value, default=options.get("default")).decode()
    except (TypeError, ValueError):
        # A lone surrogate, as a client's raw bytes become, or a number past 64 bits.
        return json.dumps(value, **options)


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
    values = event.values()
    is_plain = PLAIN.issuperset(map(type, values))
    # Nearly every line: all its texts are looked at in one go.
    if is_plain and not may_hold_secret("\n".join([value for value in values if type(value) is str])):
        return event
    for key, value in event.items():
        # structlog's own fields (the record, the name of the logger) are taken out before anything is printed.
        if not key.startswith("_"):
            event[key] = redact_all(value)
    return event


def _stamped_by(process: str) -> Callable[[WrappedLogger, str, EventDict], EventDict]:
    """A processor that says which process a line is from, how grave it is, and when it was (UTC)."""

    def stamp(_logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        event.setdefault("process", process)
        event["level"] = "error" if method == "exception" else "warning" if method == "warn" else method
        event["timestamp"] = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        return event

    return stamp


class GatheringHandler(logging.StreamHandler[Any]):
    """Writes the lines of one turn of the event loop at once; a line from another thread is written by itself.

    A write costs as much as making the line, and a group commit ends many messages in one turn.
    """

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.take(self.format(record))
        except Exception:
            self.handleError(record)

    def take(self, line: str) -> None:
        """Write ``line``, now or at the end of this turn of the event loop."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            with self.lock or nullcontext():
                self.stream.write(line + self.terminator)
            super().flush()
            return
        if not self._lines:
            loop.call_soon(self.flush)
        self._lines.append(line)

    def flush(self) -> None:
        with self.lock or nullcontext():
            lines, self._lines = self._lines, []
            if lines:
                self.stream.write(self.terminator.join(lines) + self.terminator)
        super().flush()


class Printer:
    """The last processor of our own lines: hands each to the handler, ready to be written.

    What logging would do with it (a record, its copy, a look at the stack for the caller) costs as much as all the rest
    of a line. Its levels count as ever; libraries' lines come by logging.
    """

    def __init__(self, handler: GatheringHandler, renderer: Callable[[WrappedLogger, str, EventDict], str]) -> None:
        self._handler = handler
        self._renderer = renderer

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> NoReturn:
        try:
            self._handler.take(self._renderer(logger, method, event))
        except Exception:
            # As logging has it: no trouble with a log ends what is logged.
            self._handler.handleError(logging.makeLogRecord({"msg": event.get("event")}))
        raise structlog.DropEvent


def configure(log_format: LogFormat, level: str, *, process: str) -> None:
    """Set up logging for this process; call once, before anything logs. ``process``: ingress or forwarder."""
    pretty = log_format == "pretty" or (log_format == "auto" and sys.stderr.isatty())
    shared: list[Any] = [
        _stamped_by(process),
        structlog.processors.format_exc_info,
        _redact_event,
    ]
    renderer: Any = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        if pretty
        else structlog.processors.JSONRenderer(serializer=_json)
    )
    # What is asked of the system for each line, and not printed.
    logging.logProcesses = logging.logThreads = logging.logMultiprocessing = False
    handler = GatheringHandler(sys.stderr)
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
            Printer(handler, renderer),
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def report_crashes() -> None:
    """What ends this process or a thread of it unforeseen is logged as everything else is, without secrets.

    Python's own report would print the exception's text as it is.
    """

    def report(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None or issubclass(kind, KeyboardInterrupt | SystemExit):
            return
        get_logger(__name__).critical("Process crashed", exc_info=(kind, error, trace))
        for handler in logging.getLogger().handlers:
            handler.flush()

    sys.excepthook = report
    threading.excepthook = lambda args: report(args.exc_type, args.exc_value, args.exc_traceback)


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger named after its module."""
    return cast(structlog.stdlib.BoundLogger, structlog.get_logger(name))
