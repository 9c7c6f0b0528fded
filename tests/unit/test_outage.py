"""An outage of hours, the clock simulated: how often messages are tried, in what order, and when they are given up."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from forwarder.next_step import FIRST_DELAY, LONGEST_DELAY, Action, next_step
from shared.verdict import Verdict

HOUR = 3600.0
LIFETIME = 24 * HOUR
LONGEST_GAP = LONGEST_DELAY * 1.2
"""Seconds between two attempts at most, jitter included."""


@dataclass
class Life:
    """One message: when it came, when it was tried, how it ended."""

    accepted_at: float
    tried_at: list[float] = field(default_factory=list)
    ended_at: float = 0.0
    ended: Action | None = None


def live_through(outage: float, *, count: int, verdict: Verdict = Verdict.AGAIN) -> list[Life]:
    """``count`` messages that come over the first hour of an outage of so many seconds; it begins at 0."""
    dice = random.Random(1)
    lives = [Life(accepted_at=HOUR * number / count) for number in range(count)]
    due = [(life.accepted_at, number, 0) for number, life in enumerate(lives)]
    heapq.heapify(due)
    while due:
        now, number, attempts = heapq.heappop(due)
        life = lives[number]
        life.tried_at.append(now)
        step = next_step(
            verdict if now < outage else Verdict.SENT,
            attempts=attempts,
            generation=1,
            age=now - life.accepted_at,
            retry_after=None,
            lifetime=LIFETIME,
            jitter=dice.random(),
        )
        if step.action is Action.RETRY:
            heapq.heappush(due, (now + step.delay, number, step.attempts))
        else:
            life.ended_at, life.ended = now, step.action
    return lives


@pytest.mark.parametrize("hours", [0.01, 1, 3, 8, 23])
def test_after_an_outage_all_mail_goes_out_within_one_longest_gap(hours: float) -> None:
    lives = live_through(hours * HOUR, count=500)
    assert {life.ended for life in lives} == {Action.DELETE}
    assert all(life.ended_at <= max(life.accepted_at, hours * HOUR) + LONGEST_GAP for life in lives)


@pytest.mark.parametrize("hours", [1, 8, 23, 48])
def test_the_number_of_attempts_is_bounded(hours: float) -> None:
    # 5, 10, … 640 s, and every quarter of an hour from then on.
    doubling = 8
    for life in live_through(hours * HOUR, count=200):
        lasted = min(hours * HOUR, LIFETIME + LONGEST_GAP)
        assert len(life.tried_at) <= doubling + lasted / (LONGEST_DELAY * 0.8) + 2
        gaps = [later - earlier for earlier, later in pairwise(life.tried_at)]
        assert all(FIRST_DELAY * 0.8 <= gap <= LONGEST_GAP for gap in gaps)


def test_retries_are_spread_and_nobody_is_passed_over() -> None:
    lives = live_through(8 * HOUR, count=1000)
    tries = [len(life.tried_at) for life in lives]
    assert max(tries) - min(tries) <= 8, "nobody is tried much oftener than another"
    after = sorted(life.ended_at for life in lives)
    busiest = max(sum(start <= at < start + 60 for at in after) for start in after[::20])
    assert busiest < 1000 / 5, "the API that comes back is not met by all at once"


def test_mail_older_than_its_lifetime_is_a_dead_letter_and_not_before() -> None:
    lives = live_through(48 * HOUR, count=200)
    assert {life.ended for life in lives} == {Action.BURY}
    assert all(LIFETIME <= life.ended_at - life.accepted_at <= LIFETIME + LONGEST_GAP for life in lives)


def test_a_rate_limit_of_hours_spends_no_attempt_and_obeys_the_lifetime() -> None:
    step = next_step(Verdict.AGAIN_PAUSED, attempts=3, generation=2, age=1, retry_after=60, lifetime=LIFETIME, jitter=0)
    assert (step.action, step.attempts, step.generation, step.pause) == (Action.WAIT_TURN, 3, 2, 60)
    old = next_step(
        Verdict.AGAIN_PAUSED, attempts=3, generation=2, age=LIFETIME, retry_after=60, lifetime=LIFETIME, jitter=0
    )
    assert old.action is Action.BURY
