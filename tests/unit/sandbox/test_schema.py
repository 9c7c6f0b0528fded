"""The stand-in's schema: one row a rule of ``POST /v1/send``."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox.plunk_api.schema import complaints

VALID: dict[str, Any] = {"to": ["b@example.net"], "from": "a@example.com", "subject": "s", "body": "<p>b</p>"}
FILE: dict[str, Any] = {"filename": "a.txt", "content": "YQ==", "contentType": "text/plain"}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"to": []},
        {"to": "b@example.net"},
        {"to": {"name": "B", "email": "b@example.net"}},
        {"from": {"name": "A", "email": "a@example.com"}},
        {"subject": "s" * 998},
        {"headers": {"X-A": "v" * 998}},
        {"attachments": [FILE] * 10},
        {"attachments": [FILE | {"disposition": "inline", "contentId": "logo"}]},
    ],
)
def test_what_the_schema_takes(change: dict[str, Any]) -> None:
    assert complaints(VALID | change) == []


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"to": ["nobody"]}, "to.0"),
        ({"to": ["b@example.net\n"]}, "to.0"),
        ({"to": [{"name": "B\r\n", "email": "b@example.net"}]}, "to.0"),
        ({"from": "a"}, "from"),
        ({"subject": ""}, "subject"),
        ({"subject": "s" * 999}, "subject"),
        ({"subject": "a\nb"}, "subject"),
        ({"body": ""}, "body"),
        ({"reply": "nobody"}, "reply"),
        ({"headers": {"X-A": "v" * 999}}, "headers.X-A"),
        ({"headers": {"X-A": "a\r\nB: c"}}, "headers.X-A"),
        ({"attachments": [FILE] * 11}, "attachments"),
        ({"attachments": [FILE | {"content": ""}]}, "attachments.0"),
        ({"attachments": [FILE | {"filename": 'a".txt'}]}, "attachments.0"),
        ({"attachments": [FILE | {"disposition": "inline"}]}, "attachments.0"),
        ({"attachments": [FILE | {"contentId": "<logo>"}]}, "attachments.0"),
        ({"attachments": [FILE | {"content": "A" * (10 * 1024**2 * 4 // 3 + 4)}]}, "attachments"),
    ],
)
def test_what_the_schema_refuses(change: dict[str, Any], field: str) -> None:
    assert field in [complaint["field"] for complaint in complaints(VALID | change)]
