"""Waiters of one answer: all get it, and one that goes away takes nothing from the others."""

from __future__ import annotations

import asyncio
import gc

import pytest

from shared.waiters import Waiters


async def three_waiting(waiters: Waiters[str]) -> list[asyncio.Task[str]]:
    async def wait() -> str:
        return await waiters.join()

    tasks = [asyncio.create_task(wait()) for _ in range(3)]
    await asyncio.sleep(0)
    return tasks


async def test_each_gets_the_answer_but_who_has_gone() -> None:
    waiters: Waiters[str] = Waiters()
    first, gone, last = await three_waiting(waiters)
    gone.cancel()
    waiters.answer("yes")
    assert [await first, await last] == ["yes", "yes"]
    assert (await asyncio.gather(gone, return_exceptions=True)) != ["yes"]


async def test_each_gets_the_failure_and_a_failure_for_nobody_is_not_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    waiters: Waiters[str] = Waiters()
    first, gone, last = await three_waiting(waiters)
    gone.cancel()
    waiters.fail(LookupError("no"))
    for task in (first, last):
        with pytest.raises(LookupError):
            await task
    nobody: Waiters[str] = Waiters()
    for task in (tasks := await three_waiting(nobody)):
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    nobody.fail(LookupError("no"))
    del nobody, waiters, first, gone, last
    gc.collect()
    assert not caplog.records, "asyncio reports an exception that nobody has looked at"
