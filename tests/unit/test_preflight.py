"""API answers → SMTP replies: every row of the preflight's table, and the sharing of questions."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from ingress.api_stream import ApiStream
from ingress.preflight import GATHER_TURNS, TABLE, Preflight, decide, question, wait_before_next, worth_asking_again
from ingress.replies import SmtpError
from shared.plunk_api import Answer, NoAnswer, read_answer

OK = Answer(status=200)
ABOUT_TO = Answer(status=422, code="VALIDATION_ERROR", message="Validation failed", fields=("to",))

# answer, reply, reply under DEFER_TRANSIENT ("" = the API would take it)
CASES = [
    (OK, "", ""),
    (Answer(status=201), "", ""),
    (ABOUT_TO, "", ""),
    (Answer(status=422, message="bad", fields=("to", "from")), "554 5.6.0", "554 5.6.0"),
    (Answer(status=422, message="bad", fields=()), "554 5.6.0", "554 5.6.0"),
    (Answer(status=400, message="bad"), "554 5.6.0", "554 5.6.0"),
    (Answer(status=401, message="bad"), "554 5.7.8", "554 5.7.8"),
    (Answer(status=402, message="bad"), "554 5.7.0", "554 5.7.0"),
    (Answer(status=403, message="bad"), "554 5.7.1", "554 5.7.1"),
    (Answer(status=404, message="bad"), "554 5.0.0", "554 5.0.0"),
    (Answer(status=409, message="bad"), "554 5.0.0", "554 5.0.0"),
    (Answer(status=413, message="bad"), "554 5.3.4", "554 5.3.4"),
    (Answer(status=429, message="bad"), "554 5.7.0", "451 4.7.0"),
    (Answer(status=500, message="bad"), "554 5.3.0", "451 4.3.0"),
    (Answer(status=502, message="bad"), "554 5.3.0", "451 4.3.0"),
    (Answer(status=503, message="bad"), "554 5.3.0", "451 4.3.0"),
    (Answer(status=504, message="bad"), "554 5.3.0", "451 4.3.0"),
    (Answer(status=302, message="bad"), "451 4.4.1", "451 4.4.1"),
    (NoAnswer(cause="ConnectionError"), "451 4.4.1", "451 4.4.1"),
]


@pytest.mark.parametrize(("answer", "reply", "deferred"), CASES, ids=lambda value: str(value)[:40])
def test_each_answer_has_its_reply(answer: Answer | NoAnswer, reply: str, deferred: str) -> None:
    for defer_transient, expected in ((False, reply), (True, deferred)):
        decided = decide(answer, defer_transient=defer_transient)
        assert (f"{decided.code} {decided.enhanced}" if decided else "") == expected


def test_every_row_of_the_table_is_reached() -> None:
    reached = {
        next(row.name for row in TABLE if row.applies(answer)) for answer, _, _ in CASES if isinstance(answer, Answer)
    }
    assert reached == {row.name for row in TABLE}


def test_the_refusal_carries_the_apis_words_on_one_line() -> None:
    body = orjson.dumps({"error": {"code": "FORBIDDEN", "message": "Domain x.example\r\n250 is not verified"}})
    reply = decide(read_answer(403, {}, body), defer_transient=False)
    assert reply is not None
    assert reply.encode() == b"554 5.7.1 Transaction failed: Domain x.example  250 is not verified\r\n"


def test_a_page_of_html_is_not_shown_to_the_client() -> None:
    reply = decide(read_answer(502, {}, b"<html>nginx 10.0.0.1</html>"), defer_transient=False)
    assert reply is not None
    assert reply.text == "Transaction failed: the API answered 502"


@pytest.mark.parametrize(
    ("answer", "again"),
    [
        (OK, False),
        (ABOUT_TO, False),
        (Answer(status=401), False),
        (Answer(status=403), False),
        (Answer(status=429), True),
        (Answer(status=500), True),
        (Answer(status=503), True),
        (NoAnswer(cause="Timeout"), True),
    ],
)
def test_only_what_may_pass_is_asked_again(answer: Answer | NoAnswer, again: bool) -> None:
    assert worth_asking_again(answer) is again


def test_the_question_has_a_sender_and_nobody_to_send_to() -> None:
    asked = orjson.loads(question("a@example.com"))
    assert asked["from"] == "a@example.com"
    assert asked["to"] == []
    assert asked["subject"]
    assert asked["body"]


class ScriptedApi(ApiStream):
    """Answers from a list; holds every answer back until ``go`` is set."""

    def __init__(self, answers: list[Answer | NoAnswer]) -> None:
        self.answers = answers
        self.asked: list[tuple[str, str]] = []
        self.go = asyncio.Event()
        self.go.set()

    async def send(self, body: bytes, *, secret: str, timeout: float) -> Answer | NoAnswer:  # noqa: ASYNC109
        self.asked.append((secret, orjson.loads(body)["from"]))
        await asyncio.wait_for(self.go.wait(), 10)
        return self.answers.pop(0)


def preflight(api: ApiStream, *, timeout: float = 5, ttl: float = 0) -> Preflight:
    return Preflight(api, timeout=timeout, ttl=ttl, defer_transient=False)


async def test_questions_that_wait_together_share_one_request() -> None:
    api = ScriptedApi([OK, OK, OK])
    api.go.clear()
    asking = preflight(api)
    waiting = [asyncio.create_task(asking.check(secret="sk_a", sender="a@x.example")) for _ in range(20)]
    # Neither with another sender of the same project nor with the same sender of another one.
    waiting.append(asyncio.create_task(asking.check(secret="sk_a", sender="b@x.example")))
    waiting.append(asyncio.create_task(asking.check(secret="sk_b", sender="a@x.example")))
    await asyncio.sleep(0)
    api.go.set()
    await asyncio.gather(*waiting)
    assert sorted(api.asked) == [("sk_a", "a@x.example"), ("sk_a", "b@x.example"), ("sk_b", "a@x.example")]


@pytest.mark.parametrize(("longest", "company"), [(60.0, [5]), (0.0, [1])], ids=["it comes", "time is up"])
async def test_a_question_waits_while_the_loops_turns_bring_company(
    monkeypatch: pytest.MonkeyPatch, longest: float, company: list[int]
) -> None:
    monkeypatch.setattr("ingress.preflight.GATHER_SECONDS", longest)
    api = ScriptedApi([OK])
    api.go.clear()
    asking = preflight(api)
    checks: list[asyncio.Task[None]] = []
    come_when_asked: list[int] = []
    send = api.send

    async def asked(*args: Any, **options: Any) -> Answer | NoAnswer:
        come_when_asked.append(len(checks))
        return await send(*args, **options)

    monkeypatch.setattr(api, "send", asked)
    for _ in range(5):
        checks.append(asyncio.create_task(asking.check(secret="sk_a", sender="a@x.example")))
        for _ in range(GATHER_TURNS):
            await asyncio.sleep(0)
    api.go.set()
    await asyncio.gather(*checks)
    assert come_when_asked == company


async def test_without_a_ttl_the_next_message_asks_again() -> None:
    api = ScriptedApi([OK, Answer(status=403, message="no")])
    asking = preflight(api)
    await asking.check(secret="sk_a", sender="a@x.example")
    with pytest.raises(SmtpError) as refused:
        await asking.check(secret="sk_a", sender="a@x.example")
    assert refused.value.reply.code == 554


async def test_with_a_ttl_a_good_answer_is_kept_and_a_bad_one_is_not() -> None:
    api = ScriptedApi([Answer(status=403, message="no"), OK])
    asking = preflight(api, ttl=60)
    with pytest.raises(SmtpError):
        await asking.check(secret="sk_a", sender="a@x.example")
    for _ in range(5):
        await asking.check(secret="sk_a", sender="a@x.example")
    assert len(api.asked) == 2


async def test_a_kept_answer_has_its_time_and_there_are_only_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingress.preflight.MAX_KEPT_ANSWERS", 2)
    api = ScriptedApi([OK] * 5)
    asking = preflight(api, ttl=60)
    for sender in ("a@x.example", "b@x.example", "c@x.example", "c@x.example", "b@x.example", "a@x.example"):
        await asking.check(secret="sk_a", sender=sender)
    assert [sender[0] for _, sender in api.asked] == ["a", "b", "c", "a"], "the oldest had gone"
    assert len(asking._good_until) == 2
    for key in asking._good_until:
        asking._good_until[key] -= 60
    await asking.check(secret="sk_a", sender="a@x.example")
    assert len(api.asked) == 5, "a good answer is not good for ever"


async def test_a_defect_while_asking_is_told_to_all_who_wait_and_the_next_question_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    api = ScriptedApi([OK])
    asking = preflight(api)

    async def broken(*_: Any, **__: Any) -> Answer:
        raise LookupError

    with monkeypatch.context() as broken_api:
        broken_api.setattr(api, "send", broken)
        checks = (asking.check(secret="sk_a", sender="a@x.example") for _ in range(3))
        told = await asyncio.wait_for(asyncio.gather(*checks, return_exceptions=True), 10)
    assert [type(error) for error in told] == [LookupError] * 3
    await asyncio.wait_for(asking.check(secret="sk_a", sender="a@x.example"), 10)


async def test_a_blip_is_waited_out() -> None:
    api = ScriptedApi([NoAnswer(cause="ConnectionError"), Answer(status=503), Answer(status=429, retry_after=0.05), OK])
    await preflight(api).check(secret="sk_a", sender="a@x.example")
    assert len(api.asked) == 4


async def test_a_retry_after_past_the_deadline_decides_at_once() -> None:
    api = ScriptedApi([Answer(status=429, message="slow down", retry_after=3600)])
    with pytest.raises(SmtpError) as refused:
        await preflight(api).check(secret="sk_a", sender="a@x.example")
    assert str(refused.value.reply) == "554 5.7.0 Transaction failed: slow down"
    assert len(api.asked) == 1


async def test_one_client_that_goes_away_takes_nothing_from_the_others() -> None:
    api = ScriptedApi([OK])
    api.go.clear()
    asking = preflight(api)
    first = asyncio.create_task(asking.check(secret="sk_a", sender="a@x.example"))
    second = asyncio.create_task(asking.check(secret="sk_a", sender="a@x.example"))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    api.go.set()
    await second
    assert first.cancelled()


def test_retry_after_is_obeyed_where_the_api_names_it() -> None:
    import tenacity

    state = tenacity.RetryCallState(tenacity.Retrying(), None, (), {})
    state.set_result(Answer(status=429, retry_after=3))
    assert wait_before_next(state) == 3
    state.set_result(Answer(status=503))
    assert 0 < wait_before_next(state) <= 1.2
