"""What reaches the log: nothing secret, however deep it lies; one JSON object a line, or text for a terminal."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from shared.log import DEEPEST, configure, get_logger, redact, redact_all

SECRETS = [
    ("sk_live_0123", "[redacted]"),
    ("key=sk_live_0123, then", "key=[redacted], then"),
    ("Bearer abc.def", "Bearer [redacted]"),
    ("redis://:hunter2@redis:6379/0", "redis://[redacted]@redis:6379/0"),
    ("postgresql://u:hunter2@db/x", "postgresql://[redacted]@db/x"),
    ("postgresql://u:p@ss@db/x", "postgresql://[redacted]@db/x"),
    ("SK_UPPER_1", "[redacted]"),
]

HARMLESS = [
    "Email relayed: a@example.com → b@x.example",
    "http://api:3000/health answers 200",
    "SMTP server listening on port 465 (secure=true)",
    "task_1 and risk_2",
]


@pytest.mark.parametrize(("text", "printed"), SECRETS)
def test_secrets_are_redacted(text: str, printed: str) -> None:
    assert redact(text) == printed


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


class Talkative:
    def __repr__(self) -> str:
        return "<Talkative sk_live_0123>"


NESTED = [
    {"a": {"b": ["sk_live_0123"]}},
    {"sk_live_0123": 1},
    ["x", ("y", "sk_live_0123")],
    {"sk_live_0123"},
    b"AUTH sk_live_0123",
    bytearray(b"\xff sk_live_0123"),
    RuntimeError("redis://:sk_live_0123@host"),
    Talkative(),
    {"error": [RuntimeError(b"sk_live_0123")]},
]


@pytest.mark.parametrize("value", NESTED, ids=lambda value: type(value).__name__)
def test_nested_values_bytes_and_objects_are_redacted(value: Any) -> None:
    printed = repr(redact_all(value))
    assert "0123" not in printed
    assert "[redacted]" in printed


def test_a_bottomless_value_is_cut_off() -> None:
    endless: list[Any] = ["sk_live_0123"]
    endless.append(endless)
    printed = repr(redact_all(endless))
    assert "0123" not in printed
    assert printed.count("[redacted]") == DEEPEST


def test_numbers_stay_numbers() -> None:
    assert redact_all({"n": 1, "f": 0.5, "t": True, "none": None}) == {"n": 1, "f": 0.5, "t": True, "none": None}


@pytest.fixture
def unconfigured() -> Iterator[None]:
    """Logging as it was before: ``configure`` is for a process of its own."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in ("mail.log", "rq", "urllib3", "asyncio")}
    yield
    root.handlers[:], root.level = handlers, level
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def log_everything(capsys: pytest.CaptureFixture[str]) -> str:
    """One line of ours, one with a traceback, one of a library's."""
    log = get_logger("test").bind(message_id="m1")
    log.info("Email relayed: a@example.com → b@x.example", fields={"deep": ["sk_live_0123"]}, raw=b"sk_live_0123")
    try:
        raise RuntimeError("redis://:hunter2@host refused sk_live_0123")
    except RuntimeError:
        log.exception("Command failed")
    logging.getLogger("library").warning("login with %s at %s", "sk_live_0123", {"url": "redis://:hunter2@host"})
    return capsys.readouterr().err


@pytest.mark.usefixtures("unconfigured")
def test_json_is_one_object_a_line_without_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    configure("json", "info", process="ingress")
    printed = log_everything(capsys)
    lines = [json.loads(line) for line in printed.splitlines()]
    assert [line["event"] for line in lines[:2]] == ["Email relayed: a@example.com → b@x.example", "Command failed"]
    assert lines[0]["fields"] == {"deep": ["[redacted]"]}
    assert {line["message_id"] for line in lines[:2]} == {"m1"}
    assert {line["process"] for line in lines} == {"ingress"}
    assert {line["level"] for line in lines} == {"info", "error", "warning"}
    assert all("timestamp" in line for line in lines)
    assert "RuntimeError" in lines[1]["exception"]
    assert "0123" not in printed
    assert "hunter2" not in printed


@pytest.mark.usefixtures("unconfigured")
def test_pretty_text_is_without_secrets_too(capsys: pytest.CaptureFixture[str]) -> None:
    configure("pretty", "info", process="forwarder")
    printed = log_everything(capsys)
    assert "Email relayed: a@example.com → b@x.example" in printed
    assert "Traceback" in printed
    assert "0123" not in printed
    assert "hunter2" not in printed


@pytest.mark.usefixtures("unconfigured")
def test_the_level_is_obeyed_and_auto_is_json_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    configure("auto", "error", process="ingress")
    log = get_logger("other")
    log.info("quiet")
    log.error("loud")
    assert json.loads(capsys.readouterr().err)["event"] == "loud"
