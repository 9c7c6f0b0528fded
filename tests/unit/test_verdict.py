"""Every answer of the API and its verdict, and every verdict and its next step: the two tables, row by row."""

from __future__ import annotations

import pytest

from forwarder.next_step import FIRST_DELAY, LONGEST_DELAY, Action, Step, next_step
from shared.plunk_api import Answer, NoAnswer
from shared.verdict import RULES, Verdict, judge

REUSED = "IDEMPOTENCY_KEY_REUSED"

CASES = [
    (Answer(status=200), Verdict.SENT),
    (Answer(status=201), Verdict.SENT),
    (Answer(status=409, code=REUSED, original_status=200), Verdict.SENT),
    (Answer(status=409, code=REUSED, original_status=None), Verdict.AGAIN),
    (Answer(status=409, code=REUSED, original_status=500), Verdict.AGAIN_NEXT_KEY),
    (Answer(status=409, code=REUSED, original_status=503), Verdict.AGAIN_NEXT_KEY),
    (Answer(status=409, code="CONFLICT"), Verdict.DEAD),
    (Answer(status=408), Verdict.AGAIN),
    (Answer(status=425), Verdict.AGAIN),
    (Answer(status=429), Verdict.AGAIN_PAUSED),
    (Answer(status=500), Verdict.AGAIN),
    (Answer(status=502), Verdict.AGAIN),
    (Answer(status=503), Verdict.AGAIN),
    (Answer(status=504), Verdict.AGAIN),
    (Answer(status=401), Verdict.FRESH_SECRET),
    (Answer(status=400), Verdict.DEAD),
    (Answer(status=402), Verdict.DEAD),
    (Answer(status=403), Verdict.DEAD),
    (Answer(status=404), Verdict.DEAD),
    (Answer(status=413), Verdict.DEAD),
    (Answer(status=422), Verdict.DEAD),
    (Answer(status=302), Verdict.AGAIN),
    (NoAnswer(cause="ConnectionError"), Verdict.AGAIN),
    (NoAnswer(cause="ReadTimeout"), Verdict.AGAIN),
]


@pytest.mark.parametrize(("answer", "verdict"), CASES, ids=lambda value: str(value)[:60])
def test_each_answer_has_its_verdict(answer: Answer | NoAnswer, verdict: Verdict) -> None:
    assert judge(answer) is verdict


def test_every_rule_is_reached() -> None:
    answers = [answer for answer, _ in CASES if isinstance(answer, Answer)]
    assert {next(rule.name for rule in RULES if rule.applies(a)) for a in answers} == {rule.name for rule in RULES}


def test_a_fresh_secret_that_is_refused_is_final() -> None:
    assert judge(Answer(status=401), secret_is_fresh=True) is Verdict.DEAD


def test_an_unknown_outcome_may_be_held_for_a_person() -> None:
    assert judge(Answer(status=409, code=REUSED, original_status=500), on_ambiguous="hold") is Verdict.HELD


def step(verdict: Verdict, *, attempts: int = 0, age: float = 0, retry_after: float | None = None) -> Step:
    return next_step(
        verdict,
        attempts=attempts,
        generation=1,
        age=age,
        retry_after=retry_after,
        lifetime=86_400,
        jitter=0.5,
    )


STEPS = [
    (step(Verdict.SENT), Step(action=Action.DELETE, attempts=1)),
    (step(Verdict.DEAD, attempts=2), Step(action=Action.BURY, attempts=3)),
    (step(Verdict.HELD), Step(action=Action.BURY, attempts=1, generation=2)),
    (step(Verdict.FRESH_SECRET), Step(action=Action.BURY, attempts=1)),
    (step(Verdict.AGAIN), Step(action=Action.RETRY, delay=FIRST_DELAY, attempts=1)),
    (step(Verdict.AGAIN, attempts=1), Step(action=Action.RETRY, delay=2 * FIRST_DELAY, attempts=2)),
    (step(Verdict.AGAIN, attempts=5000), Step(action=Action.RETRY, delay=LONGEST_DELAY, attempts=5001)),
    (step(Verdict.AGAIN, retry_after=60), Step(action=Action.RETRY, delay=60, attempts=1)),
    (step(Verdict.AGAIN_NEXT_KEY), Step(action=Action.RETRY, delay=FIRST_DELAY, attempts=1, generation=2)),
    (
        step(Verdict.AGAIN_PAUSED, attempts=3, retry_after=7),
        Step(action=Action.WAIT_TURN, attempts=3, pause=7),
    ),
    (step(Verdict.AGAIN_PAUSED), Step(action=Action.WAIT_TURN, attempts=0, pause=1)),
    (step(Verdict.AGAIN, age=86_400), Step(action=Action.BURY, attempts=1)),
    (step(Verdict.AGAIN_PAUSED, age=90_000), Step(action=Action.BURY, attempts=1)),
    (step(Verdict.SENT, age=90_000), Step(action=Action.DELETE, attempts=1)),
]


@pytest.mark.parametrize(("found", "expected"), STEPS, ids=lambda value: str(value)[:70])
def test_each_verdict_has_its_step(found: Step, expected: Step) -> None:
    assert found == expected
