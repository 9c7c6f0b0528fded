"""The project directory: Plunk's PostgreSQL, read only, as the relay needs it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

import asyncpg

QUERY_TIMEOUT: Final = 5.0
"""Seconds that one look-up may take, waiting for a connection included."""

_PROJECT_BY_KEY: Final = """
SELECT p.id, array_remove(array_agg(lower(d.domain)), NULL) AS domains
FROM projects p LEFT JOIN domains d ON d."projectId" = p.id AND d.verified
WHERE p.secret = $1 GROUP BY p.id
"""
_DOMAIN: Final = """
SELECT EXISTS (SELECT 1 FROM domains WHERE "projectId" = $1 AND lower(domain) = $2 AND verified)
"""
_KEY_OF_PROJECT: Final = "SELECT secret FROM projects WHERE id = $1"
_PROBE: Final = 'SELECT p.id, d.verified FROM projects p LEFT JOIN domains d ON d."projectId" = p.id LIMIT 1'


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

    async def by_secret(self, secret: str) -> Project | None:
        """The project whose secret this is, with its verified domains; None for a wrong secret.

        One query. Raises ``DirectoryUnavailable``.
        """
        row = await self._fetchrow(_PROJECT_BY_KEY, secret)
        if row is None:
            return None
        return Project(id=row["id"], verified_domains=frozenset(row["domains"]))

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
        # A string holding NUL cannot exist in PostgreSQL: it is a wrong value, not an outage.
        if any(isinstance(arg, str) and "\x00" in arg for arg in args):
            return None
        try:
            async with asyncio.timeout(QUERY_TIMEOUT):
                for attempt in (1, 2):
                    pool = await self._open()
                    try:
                        async with pool.acquire() as connection:
                            return await connection.fetchrow(query, *args)
                    except (asyncpg.ConnectionDoesNotExistError, asyncpg.InterfaceError, ConnectionError):
                        # A pooled connection died with a restarted server: one more try finds a new one.
                        if attempt == 2:
                            raise
        except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
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
                    # PgBouncer refuses start-up parameters that it does not know; this one it knows.
                    server_settings={"application_name": "plunk-smtp-relay"},
                )
            return self._pool
