"""What becomes of a message after the API answered: one pure function over one table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from shared.plunk_api import Answer, NoAnswer
from shared.settings import OnAmbiguous


class Verdict(StrEnum):
    """What to do with a message."""

    SENT = "sent"
    """The mail went out: delete the message."""
    AGAIN = "again"
    """Try again with the same idempotency key: at most one of the tries sends."""
    AGAIN_PAUSED = "again-paused"
    """The project is rate-limited: try again with the same key, hold the whole project back, count no attempt."""
    AGAIN_NEXT_KEY = "again-next-key"
    """The key is spent on an unknown outcome: try again with the next key, so at least once."""
    HELD = "held"
    """The outcome is unknown and ON_AMBIGUOUS=hold: a dead letter for a person to judge."""
    FRESH_SECRET = "fresh-secret"  # noqa: S105
    """The secret may have been rotated: look it up afresh once, then ``DEAD``."""
    DEAD = "dead"
    """The API will not take it: a dead letter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One row of the table: the first whose ``applies`` is true decides."""

    name: str
    applies: Callable[[Answer], bool]
    verdict: Verdict


TRANSIENT_STATUSES: Final = frozenset({408, 425})

RULES: Final = (
    Rule(name="2xx", applies=lambda a: 200 <= a.status < 300, verdict=Verdict.SENT),
    Rule(
        name="409, the first request ended in 2xx",
        applies=lambda a: a.status == 409 and a.original_status is not None and 200 <= a.original_status < 300,
        verdict=Verdict.SENT,
    ),
    Rule(
        name="409, the first request ended in 5xx",
        applies=lambda a: a.status == 409 and a.original_status is not None and a.original_status >= 500,
        verdict=Verdict.AGAIN_NEXT_KEY,
    ),
    Rule(
        name="409, the first request is still running",
        applies=lambda a: a.status == 409 and a.code == "IDEMPOTENCY_KEY_REUSED",
        verdict=Verdict.AGAIN,
    ),
    Rule(name="429", applies=lambda a: a.status == 429, verdict=Verdict.AGAIN_PAUSED),
    Rule(name="408, 425", applies=lambda a: a.status in TRANSIENT_STATUSES, verdict=Verdict.AGAIN),
    Rule(name="401", applies=lambda a: a.status == 401, verdict=Verdict.FRESH_SECRET),
    Rule(name="other 4xx", applies=lambda a: 400 <= a.status < 500, verdict=Verdict.DEAD),
    # 1xx and 3xx come from a proxy or a wrong API_URI, 5xx from trouble: unknown means temporary.
    Rule(name="anything else", applies=lambda a: True, verdict=Verdict.AGAIN),
)


def judge(answer: Answer | NoAnswer, *, secret_is_fresh: bool = False, on_ambiguous: OnAmbiguous = "retry") -> Verdict:
    """The verdict of one answer. ``secret_is_fresh``: the secret was looked up for this very try."""
    if isinstance(answer, NoAnswer):
        return Verdict.AGAIN
    verdict = next(rule.verdict for rule in RULES if rule.applies(answer))
    if verdict is Verdict.FRESH_SECRET and secret_is_fresh:
        return Verdict.DEAD
    if verdict is Verdict.AGAIN_NEXT_KEY and on_ambiguous == "hold":
        return Verdict.HELD
    return verdict
