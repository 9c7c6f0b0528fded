"""Relays over the shared servers, and the books of what came of each fault."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from sandbox.stack import Stack
from tests.support.books import ROW, Row, settle

Settle = Callable[..., Row]
MakeRelay = Callable[..., Stack]


@pytest.fixture
def make_relay(services: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeRelay]:
    """Makes relays, each with a queue and ports of its own, over the shared services; nothing is started yet."""
    services.api.reset()
    made: list[Stack] = []

    def make(**settings: Any) -> Stack:
        made.append(fresh_relay(services, tmp_path_factory, **settings))
        return made[-1]

    yield make
    for stack in made:
        stack.stop()


@pytest.fixture
def bench(make_relay: MakeRelay) -> Stack:
    """One relay over the shared services."""
    return make_relay()


_numbers = itertools.count(1)


def fresh_relay(services: Stack, factory: pytest.TempPathFactory, *, workers: int = 1, **settings: str) -> Stack:
    """A relay over ``services`` with a queue, ports and logs of its own."""
    name = f"q{next(_numbers)}"
    return Stack(
        factory.mktemp(name), tls=False, workers=workers, services=services, **{"QUEUE_NAME": name, **settings}
    )


@pytest.fixture
def books(record_property: Callable[[str, object], None]) -> Settle:
    """``books(fault, stack, subjects)``: wait, balance, assert, and keep the row for the table."""

    def keep(fault: str, stack: Stack, subjects: Iterable[str], *, prefix: str = "", within: float = 60) -> Row:
        row = settle(fault, stack, subjects, prefix=prefix, within=within)
        record_property(ROW, dataclasses.asdict(row))
        assert row.is_balanced, row
        return row

    return keep
