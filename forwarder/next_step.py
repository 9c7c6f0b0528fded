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
    WAIT_TURN = "wait-turn"
    """Back to its lane, which is held back: no attempt was spent."""
    BURY = "bury"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The next step of one message."""

    action: Action
    delay: float = 0.0
    """Seconds until the next attempt, for ``RETRY``."""
    attempts: int = 0
    generation: int = 1
    pause: float | None = None
    """Seconds for which the whole project is held back."""


def next_step(
    verdict: Verdict,
    *,
    attempts: int,
    generation: int,
    age: float,
    retry_after: float | None,
    lifetime: float,
    jitter: float,
) -> Step:
    """The step after ``verdict`` on a message with so many ``attempts`` before it.

    ``age`` (of the message), ``lifetime`` and ``retry_after`` are seconds; ``jitter`` is between 0 and 1 and spreads
    retries. No clock is read: what is due in so many seconds is the store's to say.
    """
    if verdict is Verdict.SENT:
        return Step(action=Action.DELETE, attempts=attempts + 1, generation=generation)
    if verdict is Verdict.HELD:
        # The key is spent: when a person has it tried again, it must be with the next one.
        return Step(action=Action.BURY, attempts=attempts + 1, generation=generation + 1)
    if verdict in (Verdict.DEAD, Verdict.FRESH_SECRET):
        return Step(action=Action.BURY, attempts=attempts + 1, generation=generation)
    spent = verdict is Verdict.AGAIN_NEXT_KEY
    if age >= lifetime:
        return Step(action=Action.BURY, attempts=attempts + 1, generation=generation + spent)
    if verdict is Verdict.AGAIN_PAUSED:
        pause = PAUSE if retry_after is None else max(retry_after, 0.05)
        return Step(action=Action.WAIT_TURN, attempts=attempts, generation=generation, pause=pause)
    delay = min(FIRST_DELAY * 2 ** min(attempts, 20), LONGEST_DELAY) * (0.8 + 0.4 * jitter)
    if retry_after is not None:
        delay = max(delay, retry_after)
    return Step(action=Action.RETRY, delay=delay, attempts=attempts + 1, generation=generation + spent)
