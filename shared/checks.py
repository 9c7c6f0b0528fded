"""Looks at what a process needs, one dependency a check, for ``--check`` and for readiness."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import click
import redis

from shared.log import redact
from shared.plunk_api import SEND_PATH, Answer, NoAnswer, PlunkApi
from shared.projects import DirectoryUnavailable, ProjectDirectory
from shared.redis_connection import connect, look_at_durability
from shared.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What one look found; ``detail`` is one line for a person and holds no secret."""

    name: str
    ok: bool
    detail: str
    is_warning: bool = False
    """Works, but somebody should look at it."""


def check_redis(settings: Settings) -> Check:
    """Redis takes a write, and keeps it through a crash."""
    connection = connect(settings.redis_url, connections=1)
    try:
        connection.set(f"{settings.queue_name}:probe", "1", ex=60)
        durability = look_at_durability(connection)
    except redis.RedisError as error:
        return Check(name="redis", ok=False, detail=f"takes no write: {type(error).__name__}")
    finally:
        connection.close()
    if durability.mistakes:
        detail = "accepted mail can be lost: " + "; ".join(durability.mistakes)
        return Check(name="redis", ok=not settings.require_durable_redis, detail=detail, is_warning=True)
    how = ", each proved by WAITAOF" if durability.needs_wait_aof else ""
    return Check(name="redis", ok=True, detail=f"takes writes and keeps them{how}")


def check_database(settings: Settings) -> Check:
    """PostgreSQL answers and has Plunk's tables."""

    async def probe() -> None:
        directory = ProjectDirectory(settings.database_url, connections=1)
        try:
            await directory.probe()
        finally:
            await directory.close()

    try:
        asyncio.run(probe())
    except DirectoryUnavailable as error:
        return Check(name="database", ok=False, detail=f"cannot read projects and domains: {error}")
    return Check(name="database", ok=True, detail="projects and domains can be read")


def check_api(settings: Settings) -> Check:
    """API_URI leads to the Plunk API: /health says 200, and /v1/send asks for a key in the API's own words."""
    api = PlunkApi(settings.api_uri, connections=1)
    try:
        answer = api.health(timeout=5)
        asked = "/health"
        if isinstance(answer, Answer) and answer.is_success:
            # Anything may say 200 to /health. Without a key nothing can come of this.
            answer = api.send(b"{}", secret="", timeout=5)
            asked = SEND_PATH
    finally:
        api.close()
    trouble = _api_trouble(answer, asked)
    detail = f"{settings.api_uri}{asked} {trouble}" if trouble else f"{settings.api_uri} is the Plunk API"
    return Check(name="api", ok=not trouble, detail=redact(detail))


def _api_trouble(answer: Answer | NoAnswer, asked: str) -> str:
    if isinstance(answer, NoAnswer):
        return f"does not answer: {answer.cause}"
    if 300 <= answer.status < 400:
        return f"answers {answer.status}: API_URI must be the address that this redirects to"
    if asked == "/health":
        return f"answers {answer.status}"
    if answer.status == 401 and answer.code:
        return ""
    return f"answers {answer.status} to a call without a key, which is not the Plunk API's answer: is API_URI right?"


def check_configuration(mistakes: Sequence[str] = ()) -> list[Check]:
    """One row a mistake, or one good row."""
    if not mistakes:
        return [Check(name="configuration", ok=True, detail="every variable can be read")]
    return [Check(name="configuration", ok=False, detail=mistake) for mistake in mistakes]


def print_checks(checks: Sequence[Check]) -> int:
    """Prints a table; the exit code: 0 when all is good, 1 otherwise."""
    width = max(len(check.name) for check in checks)
    for check in checks:
        mark = "FAIL" if not check.ok else "WARN" if check.is_warning else "ok"
        click.echo(f"{check.name:<{width}}  {mark:<4}  {check.detail}")
    return 0 if all(check.ok for check in checks) else 1
