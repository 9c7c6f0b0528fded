"""The projects' secrets for threads: looked up in PostgreSQL by an event loop of its own, kept for a short while."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Final

from shared.projects import DirectoryUnavailable, ProjectDirectory

KEEP_SECONDS: Final = 60.0
"""A secret is looked up again after this; a rotated one sooner, since the API says 401 to the old."""


class Secrets:
    """Blocking look-ups over the asynchronous project directory. Secrets stay in this process's memory."""

    def __init__(self, database_url: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="secrets", daemon=True)
        self._thread.start()
        self._directory = ProjectDirectory(database_url, connections=4)
        self._kept: dict[str, tuple[float, str | None]] = {}

    def of(self, project_id: str, *, timeout: float, fresh: bool = False) -> str | None:
        """The project's secret, within ``timeout`` seconds; None when the project is gone.

        Raises ``DirectoryUnavailable``.
        """
        kept = self._kept.get(project_id)
        if kept and not fresh and kept[0] > time.monotonic():
            return kept[1]
        asked = asyncio.run_coroutine_threadsafe(self._directory.secret_of(project_id), self._loop)
        try:
            secret = asked.result(timeout=timeout)
        except TimeoutError as error:
            asked.cancel()
            raise DirectoryUnavailable("TimeoutError") from error
        self._kept[project_id] = (time.monotonic() + KEEP_SECONDS, secret)
        return secret
