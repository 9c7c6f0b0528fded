"""A part of a relay, for tests that need no whole one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sandbox.stack import Stack


@contextmanager
def started(stack: Stack, *, ingress: bool = False, forwarder: bool = False) -> Iterator[Stack]:
    """``stack`` with Redis, PostgreSQL and the API up, and what else is named; all that runs in it stops at the end."""
    try:
        stack.start_services()
        if ingress:
            stack.start_ingress()
        if forwarder:
            stack.start_forwarder()
        yield stack
    finally:
        stack.stop()
