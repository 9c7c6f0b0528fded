"""The project directory: Plunk's PostgreSQL, read only, as the relay needs it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import asyncpg

from shared.waiters import Waiters

QUERY_TIMEOUT: Final = 5.0
"""Seconds that one look-up may take, waiting for a connection included."""

GATHER: Final = 0.006
"""Seconds between the begins of two queries for projects by secret: what is asked meanwhile shares the next one."""

_PROJECTS_BY_KEY: Final = """
SELECT p.secret, p.id,
       ARRAY(SELECT lower(d.domain) FROM domains d WHERE d."projectId" = p.id AND d.verified) AS domains
FROM projects p WHERE p.secret = ANY($1::text[])
"""
_DOMAIN: Final = """
SELECT EXISTS (SELECT 1 FROM domains WHERE "projectId" = $1 AND lower(domain) = $2 AND verified)
"""
_KEY_OF_PROJECT: Final = "SELECT secret FROM projects WHERE id = $1"
_PROBE: Final = 'SELECT p.id, d.verified FROM projects p LEFT JOIN domains d ON d."projectId" = p.id LIMIT 1'


_FAILURES: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""What asyncpg raises; the last where the server's farewell to a pooled connection was not read yet."""


class DirectoryUnavailable(Exception):
    """PostgreSQL cannot answer now. The text is the cause's class name: never an address, never a password."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """One project as AUTH found it."""

    id: str
    verified_domains: frozenset[str]
    """Lower-case domain names that were verified at the time of AUTH."""


class ProjectDirectory:
    """Look-ups over a pool of connections. No named prepared statements are kept, so PgBouncer may stand between."""

    def __init__(self, database_url: str, *, connections: int = 10) -> None:
        self._database_url = database_url
        self._connections = connections
        self._pool: asyncpg.Pool | None = None
        self._opening = asyncio.Lock()
        self._asked: dict[str, Waiters[Project | None]] = {}
        self._look_ups: set[asyncio.Task[None]] = set()
        self._look_up_at = 0.0

    async def by_secret(self, secret: str) -> Project | None:
        """The project whose secret this is, with its verified domains; None for a wrong secret.

        At most one query, begun after the call: an answer is never older than the question. Questions that come close
        together share one. Raises ``DirectoryUnavailable``.
        """
        # What cannot exist in PostgreSQL is a wrong value, not an outage, and must not spoil the others' query.
        if "\x00" in secret or not _is_utf8(secret):
            return None
        asked = self._asked.get(secret)
        if asked is None:
            loop = asyncio.get_running_loop()
            asked = self._asked[secret] = Waiters()
            if self._look_up_at <= loop.time():
                # The first after a pause is asked for at once; a crowd, once in ``GATHER`` seconds.
                self._look_up_at = loop.time() + GATHER
                self._begin_look_up()
            elif len(self._asked) == 1:
                loop.call_at(self._look_up_at, self._begin_look_up)
                self._look_up_at += GATHER
        return await asked.join()

    def _begin_look_up(self) -> None:
        group, self._asked = self._asked, {}
        task = asyncio.get_running_loop().create_task(self._look_up(group))
        self._look_ups.add(task)
        task.add_done_callback(self._look_ups.discard)

    async def _look_up(self, group: Mapping[str, Waiters[Project | None]]) -> None:
        try:
            rows = await self._fetch(_PROJECTS_BY_KEY, list(group))
        except Exception as error:
            for asked in group.values():
                asked.fail(error)
            return
        found = {row["secret"]: Project(id=row["id"], verified_domains=frozenset(row["domains"])) for row in rows}
        for secret, asked in group.items():
            asked.answer(found.get(secret))

    async def is_verified(self, project_id: str, domain: str) -> bool:
        """Whether ``domain`` (lower case) is verified for the project now. Raises ``DirectoryUnavailable``."""
        row = await self._fetchrow(_DOMAIN, project_id, domain)
        return bool(row and row[0])

    async def secret_of(self, project_id: str) -> str | None:
        """The project's secret as it is now; None when the project is gone. Raises ``DirectoryUnavailable``."""
        row = await self._fetchrow(_KEY_OF_PROJECT, project_id)
        return None if row is None else str(row["secret"])

    async def probe(self) -> None:
        """Do the real work once: read both tables. Raises ``DirectoryUnavailable``."""
        await self._fetchrow(_PROBE)

    async def close(self) -> None:
        if self._pool is not None:
            self._pool.terminate()
            self._pool = None

    async def _fetchrow(self, query: str, *args: object) -> asyncpg.Record | None:
        rows = await self._fetch(query, *args)
        return rows[0] if rows else None

    async def _fetch(self, query: str, *args: object) -> list[asyncpg.Record]:
        # A string holding NUL cannot exist in PostgreSQL: it is a wrong value, not an outage.
        if any(isinstance(arg, str) and "\x00" in arg for arg in args):
            return []
        try:
            async with asyncio.timeout(QUERY_TIMEOUT):
                for attempt in (1, 2):
                    pool = await self._open()
                    try:
                        async with pool.acquire() as connection:
                            return list(await connection.fetch(query, *args))
                    except (
                        asyncpg.ConnectionDoesNotExistError,
                        asyncpg.InterfaceError,
                        asyncpg.InternalClientError,
                        ConnectionError,
                    ):
                        # A pooled connection died with a restarted server: one more try finds a new one.
                        if attempt == 2:
                            raise
        except (TimeoutError, OSError, *_FAILURES) as error:
            raise DirectoryUnavailable(type(error).__name__) from error
        raise AssertionError("unreachable")

    async def _open(self) -> asyncpg.Pool:
        async with self._opening:
            if self._pool is None:
                self._pool = await asyncpg.create_pool(
                    self._database_url,
                    min_size=0,
                    max_size=self._connections,
                    statement_cache_size=0,
                    timeout=QUERY_TIMEOUT,
                    command_timeout=QUERY_TIMEOUT,
                    # Queries of one statement each leave nothing behind; RESET ALL would be a third of their cost.
                    reset=_nothing_to_reset,
                    # PgBouncer refuses start-up parameters that it does not know; this one it knows.
                    server_settings={"application_name": "plunk-smtp-relay"},
                )
            return self._pool


async def _nothing_to_reset(_connection: object) -> None:
    """Takes the place of asyncpg's clean-up when a connection goes back to the pool."""


def _is_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
