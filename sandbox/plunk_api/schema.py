"""The schema of ``POST /v1/send``, checked as the API does: a list of what is wrong, field by field."""

from __future__ import annotations

import re
from typing import Any, Final

EMAIL: Final = re.compile(
    r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9-]*\.)+[A-Za-z]{2,}$"
)
MAX_ATTACHMENTS: Final = 10
MAX_ATTACHMENT_BASE64: Final = 10 * 1024**2 * 4 // 3


def complaints(body: Any) -> list[dict[str, str]]:
    """``[{"field", "message", "code"}]``, empty when the body is valid."""
    wrong: list[dict[str, str]] = []

    def check(ok: bool, field: str, message: str) -> None:
        if not ok:
            wrong.append({"field": field, "message": message, "code": "invalid"})

    if not isinstance(body, dict):
        return [{"field": "", "message": "Expected object", "code": "invalid_type"}]
    to = body.get("to")
    for index, one in enumerate(to if isinstance(to, list) else [to]):
        check(_is_party(one), "to" if not isinstance(to, list) else f"to.{index}", "Invalid email")
    check(_is_party(body.get("from")), "from", "Invalid email")
    template = body.get("template")
    subject, text = body.get("subject"), body.get("body")
    if subject is not None or template is None:
        check(_is_line(subject, 1, 998), "subject", "Must be 1 to 998 characters without line breaks")
    if text is not None or template is None:
        check(isinstance(text, str) and bool(text), "body", "Required")
    if "name" in body:
        check(_is_line(body["name"], 0, 10**6), "name", "Must hold no line breaks")
    if "reply" in body:
        check(isinstance(body["reply"], str) and bool(EMAIL.fullmatch(body["reply"])), "reply", "Invalid email")
    headers = body.get("headers", {})
    check(isinstance(headers, dict), "headers", "Expected object")
    for name, value in headers.items() if isinstance(headers, dict) else ():
        check(_is_line(name, 1, 10**6) and _is_line(value, 0, 998), f"headers.{name}", "Invalid header")
    attachments = body.get("attachments", [])
    check(isinstance(attachments, list) and len(attachments) <= MAX_ATTACHMENTS, "attachments", "Too many")
    size = 0
    for index, item in enumerate(attachments if isinstance(attachments, list) else []):
        check(_is_attachment(item), f"attachments.{index}", "Invalid attachment")
        size += len(item["content"]) if isinstance(item, dict) and isinstance(item.get("content"), str) else 0
    check(size <= MAX_ATTACHMENT_BASE64, "attachments", "Attachments too large")
    return wrong


def _is_line(value: Any, least: int, most: int) -> bool:
    return isinstance(value, str) and least <= len(value) <= most and not set("\r\n") & set(value)


def _is_party(value: Any) -> bool:
    if isinstance(value, dict):
        return _is_party(value.get("email")) and ("name" not in value or _is_line(value["name"], 0, 10**6))
    return isinstance(value, str) and bool(EMAIL.fullmatch(value))


def _is_attachment(item: Any) -> bool:
    if not isinstance(item, dict):
        return False
    disposition, content_id = item.get("disposition", "attachment"), item.get("contentId")
    return (
        _is_line(item.get("filename"), 1, 255)
        and '"' not in item["filename"]
        and isinstance(item.get("content"), str)
        and bool(re.fullmatch(r"[A-Za-z0-9+/]+={0,2}", item["content"]))
        and _is_line(item.get("contentType"), 1, 255)
        and disposition in ("attachment", "inline")
        and (content_id is None or (_is_line(content_id, 1, 998) and not set("<>") & set(content_id)))
        and (disposition == "attachment" or content_id is not None)
    )
