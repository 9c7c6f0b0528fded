"""Looks at what a process needs, one dependency a check, for ``--check`` and for readiness."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import click
import redis

from shared.log import redact
from shared.plunk_api import NoAnswer, PlunkApi
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
    """The API's /health says 200."""
    api = PlunkApi(settings.api_uri, connections=1)
    try:
        answer = api.health(timeout=5)
    finally:
        api.close()
    if isinstance(answer, NoAnswer):
        return Check(name="api", ok=False, detail=redact(f"{settings.api_uri}/health does not answer: {answer.cause}"))
    return Check(name="api", ok=answer.is_success, detail=redact(f"{settings.api_uri}/health answers {answer.status}"))


def print_checks(checks: Sequence[Check]) -> int:
    """Prints a table; the exit code: 0 when all is good, 1 otherwise."""
    width = max(len(check.name) for check in checks)
    for check in checks:
        mark = "FAIL" if not check.ok else "WARN" if check.is_warning else "ok"
        click.echo(f"{check.name:<{width}}  {mark:<4}  {check.detail}")
    return 0 if all(check.ok for check in checks) else 1
