"""The books of a run: what was promised to clients against what the counting API really sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from sandbox.processes import wait_until
from sandbox.stack import Stack
from shared.message_store import MessageStore

ROW: Final = "fault"
"""The property of a test's report that holds a row: reports reach the terminal from every process of a run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One fault and what came of it."""

    fault: str
    sent: int
    """Messages that clients gave, each counted once however often it was given."""
    delivered: int
    """Of those, how many the API sent at least once."""
    lost: int
    twice: int
    """How many the API sent more than once, and mails that nobody gave."""

    @property
    def is_balanced(self) -> bool:
        return self.sent == self.delivered and not self.lost and not self.twice


def balance(fault: str, subjects: Iterable[str], mails: Iterable[dict[str, Any]], *, prefix: str = "") -> Row:
    """The row of ``subjects`` (each unique) against the API's mails whose subject begins with ``prefix``."""
    given = set(subjects)
    counted = Counter(s for mail in mails if (s := mail["body"]["subject"]).startswith(prefix))
    return Row(
        fault=fault,
        sent=len(given),
        delivered=len(given & counted.keys()),
        lost=len(given - counted.keys()),
        twice=sum(count > 1 for count in counted.values()) + len(counted.keys() - given),
    )


def settle(fault: str, stack: Stack, subjects: Iterable[str], *, prefix: str = "", within: float = 60) -> Row:
    """Wait until every subject was sent and the store is empty, then the row. Asserts that nothing is left over."""
    given = set(subjects)

    def arrived() -> bool:
        return given <= {mail["body"]["subject"] for mail in stack.api.sent()}

    try:
        wait_until(arrived, timeout=within, what=f"{len(given)} mails", poll=0.1)
        wait_until(lambda: not stack.queued(), timeout=within, what="an empty store", poll=0.1)
    except TimeoutError as error:
        raise AssertionError(f"{error}: {balance(fault, given, stack.api.sent(), prefix=prefix)}") from error
    with stack.redis.client() as client:
        assert MessageStore(client, stack.queue_name).verify().mistakes == []
    return balance(fault, given, stack.api.sent(), prefix=prefix)


def table(rows: Iterable[Row]) -> list[str]:
    """The rows as lines of a Markdown table."""
    lines = ["| Fault | Sent | Delivered | Lost | Twice |", "|---|---:|---:|---:|---:|"]
    return lines + [f"| {r.fault} | {r.sent} | {r.delivered} | {r.lost} | {r.twice} |" for r in rows]
