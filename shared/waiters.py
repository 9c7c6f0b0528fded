"""Those who wait for one answer, which is asked for once.

Each has a future of its own, so that one who goes away (its task is cancelled) takes nothing from the others:
``asyncio.shield`` around one future for all does the same at several times the cost.
"""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar

Answer = TypeVar("Answer")


class Waiters(Generic[Answer]):
    """The waiters of one answer."""

    __slots__ = ("_futures",)

    def __init__(self) -> None:
        self._futures: list[asyncio.Future[Answer]] = []

    def __len__(self) -> int:
        return len(self._futures)

    def join(self) -> asyncio.Future[Answer]:
        """To be awaited at once, by one waiter alone."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._futures.append(future)
        return future

    def answer(self, answer: Answer) -> None:
        """Everybody who still waits gets ``answer``."""
        for future in self._futures:
            if not future.done():
                future.set_result(answer)

    def fail(self, error: Exception) -> None:
        """Everybody who still waits gets ``error`` raised."""
        for future in self._futures:
            if not future.done():
                future.set_exception(error)
