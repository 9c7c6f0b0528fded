"""What to do with a message after a verdict: one pure decision."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from shared.verdict import Verdict

FIRST_DELAY: Final = 5.0
LONGEST_DELAY: Final = 900.0
"""Seconds before the second attempt, and at most between two; doubled each time."""

PAUSE: Final = 1.0
"""Seconds a project is held back after a 429 that names no time."""


class Action(StrEnum):
    """What is done with the message in the store."""

    DELETE = "delete"
    RETRY = "retry"
    BURY = "bury"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The next step of one message."""

    action: Action
    due: float = 0.0
    """Unix time of the next attempt, for ``RETRY``."""
    attempts: int = 0
    generation: int = 1
    pause_until: float | None = None
    """Unix time until which the whole project is held back."""


def next_step(
    verdict: Verdict,
    *,
    attempts: int,
    generation: int,
    accepted_at: float,
    now: float,
    retry_after: float | None,
    lifetime: float,
    jitter: float,
) -> Step:
    """The step after ``verdict`` on a message with so many ``attempts`` before it.

    Times are Unix seconds, ``lifetime`` and ``retry_after`` seconds; ``jitter`` is between 0 and 1 and spreads retries.
    """
    if verdict is Verdict.SENT:
        return Step(action=Action.DELETE, attempts=attempts + 1, generation=generation)
    if verdict in (Verdict.DEAD, Verdict.HELD, Verdict.FRESH_SECRET):
        return Step(action=Action.BURY, attempts=attempts + 1, generation=generation)
    if now - accepted_at >= lifetime:
        return Step(action=Action.BURY, attempts=attempts + 1, generation=generation)
    if verdict is Verdict.AGAIN_PAUSED:
        until = now + (PAUSE if retry_after is None else max(retry_after, 0.05))
        # Waiting for one's turn is no failed attempt.
        return Step(action=Action.RETRY, due=until, attempts=attempts, generation=generation, pause_until=until)
    delay = min(FIRST_DELAY * 2 ** min(attempts, 20), LONGEST_DELAY) * (0.8 + 0.4 * jitter)
    if retry_after is not None:
        delay = max(delay, retry_after)
    spent = verdict is Verdict.AGAIN_NEXT_KEY
    return Step(action=Action.RETRY, due=now + delay, attempts=attempts + 1, generation=generation + spent)
