"""Mail for fault tests: a quick series over one connection, or a crowd of clients that keep at it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from sandbox.stack import Stack
from tests.soak.clients import Client, Ledger
from tests.support.wire import Wire, simple


def send_many(stack: Stack, count: int, *, prefix: str = "m") -> list[str]:
    """``count`` messages over one connection; their subjects. Each got 250."""
    subjects = [f"{stack.queue_name}-{prefix}{number}" for number in range(count)]
    with Wire(stack.port_submission) as wire:
        assert wire.login().startswith("235")
        for subject in subjects:
            assert wire.message(simple(subject=subject)).startswith("250")
    return subjects


@contextmanager
def crowd(stack: Stack, *, clients: int = 4, hang_ups: float = 0.02, repeats: float = 0.02) -> Iterator[Ledger]:
    """Clients that send while the block runs and, after it, until each of their messages was taken."""
    ledger = Ledger()
    threads = [
        Client(
            f"{stack.queue_name}-c{number}",
            stack.port_submission,
            ledger,
            seed=f"{number}",
            pause=0.03,
            hang_ups=hang_ups,
            repeats=repeats,
        )
        for number in range(clients)
    ]
    for thread in threads:
        thread.start()
    try:
        yield ledger
    finally:
        for thread in threads:
            thread.deadline = time.monotonic() + 60
            thread.closing.set()
        for thread in threads:
            thread.join()
    assert not sum(thread.waiting for thread in threads), "some messages were never taken"
    assert ledger.violations == []
