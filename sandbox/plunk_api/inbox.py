"""The inbox page: what the stand-in API has sent, to look at."""

from __future__ import annotations

import html
import json
import time
from typing import Any


def inbox_page(sent: list[dict[str, Any]]) -> str:
    """A page of all mails, the newest first; each body in a sandboxed frame that runs nothing."""
    mails = "".join(_mail(mail) for mail in reversed(sent[-200:])) or "<p>No mail yet.</p>"
    return (
        "<!doctype html><meta charset=utf-8><meta http-equiv=refresh content=10><title>Inbox</title>"
        "<style>body{font:16px/1.5 system-ui;margin:2rem auto;max-width:60rem;padding:0 1rem;color:#222}"
        "details{border:1px solid #ddd;border-radius:8px;margin:.75rem 0;padding:.75rem 1rem}"
        "summary{cursor:pointer}summary small{color:#777;float:right}"
        "iframe{width:100%;height:18rem;border:1px solid #eee}"
        "pre{background:#f6f6f6;padding:.75rem;overflow:auto;max-height:20rem}</style>"
        f"<h1>Inbox <small>({len(sent)})</small></h1>{mails}"
    )


def _mail(mail: dict[str, Any]) -> str:
    body = mail["body"]
    at = time.strftime("%H:%M:%S", time.localtime(mail["at"]))
    to = ", ".join(one["email"] if isinstance(one, dict) else one for one in body["to"])
    files = ", ".join(item["filename"] for item in body.get("attachments", []))
    shown = json.dumps({**body, "attachments": files}, indent=2, ensure_ascii=False)
    return (
        f"<details><summary><b>{html.escape(body.get('subject', ''))}</b> — {html.escape(str(body['from']))} → "
        f"{html.escape(to)}<small>{at}</small></summary>"
        f'<iframe sandbox srcdoc="{html.escape(body.get("body", ""))}"></iframe>'
        f"<p>Attachments: {html.escape(files) or 'none'}</p><pre>{html.escape(shown)}</pre></details>"
    )
