"""The preflight: ask the API, before 250, whether it would take mail from this project and sender now.

``POST /v1/send`` with an empty ``to`` makes the API check the key, the project, the rate limit, the schema and the
sender's domain, and send nothing; so asking again is free of risk. The answer decides the SMTP reply.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final

import orjson
import tenacity

from ingress.api_stream import ApiStream
from ingress.replies import Replies, Reply, SmtpError
from shared.metrics import PREFLIGHT_SECONDS
from shared.plunk_api import Answer, NoAnswer
from shared.waiters import Waiters

ATTEMPT_SECONDS: Final = 5.0
"""Longest that one try may take, so that a hanging API leaves time for another."""

BLIP_WAIT: Final = tenacity.wait_exponential_jitter(multiplier=0.1, max=1.0, jitter=0.1)
"""Seconds between tries where the API does not name a time by Retry-After."""

GATHER_TURNS: Final = 2
"""Turns of the event loop without company after which a question is asked: some 10 µs for who is alone."""

GATHER_SECONDS: Final = 0.005
"""Longest that a question waits for company, however much comes: one session in a large crowd must not wait for all."""

MAX_KEPT_ANSWERS: Final = 10_000
"""Good answers kept under PREFLIGHT_TTL, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of the reply table: ``reply`` None means that the API would take the mail."""

    name: str
    applies: Callable[[Answer], bool]
    reply: Reply | None
    deferred: Reply | None = None
    """The reply under DEFER_TRANSIENT, where it differs."""


def _refused(enhanced: str) -> Reply:
    return replace(Replies.REFUSED.value, enhanced=enhanced)


def _deferred(enhanced: str) -> Reply:
    return replace(Replies.DEFERRED.value, enhanced=enhanced)


TABLE: Final = (
    Row(name="2xx", applies=lambda a: a.is_success, reply=None),
    Row(name="422 about the empty to alone", applies=lambda a: _only_complains_about_to(a), reply=None),
    Row(name="400", applies=lambda a: a.status == 400, reply=_refused("5.6.0")),
    Row(name="401", applies=lambda a: a.status == 401, reply=_refused("5.7.8")),
    Row(name="402", applies=lambda a: a.status == 402, reply=_refused("5.7.0")),
    Row(name="403", applies=lambda a: a.status == 403, reply=_refused("5.7.1")),
    Row(name="413", applies=lambda a: a.status == 413, reply=_refused("5.3.4")),
    Row(name="422", applies=lambda a: a.status == 422, reply=_refused("5.6.0")),
    Row(name="429", applies=lambda a: a.status == 429, reply=_refused("5.7.0"), deferred=_deferred("4.7.0")),
    Row(name="other 4xx", applies=lambda a: 400 <= a.status < 500, reply=_refused("5.0.0")),
    Row(name="5xx", applies=lambda a: a.status >= 500, reply=_refused("5.3.0"), deferred=_deferred("4.3.0")),
    # 1xx and 3xx are not the API's: a proxy or a wrong API_URI. Unknown means temporary.
    Row(name="anything else", applies=lambda a: True, reply=Replies.API_UNREACHABLE.value),
)


def decide(answer: Answer | NoAnswer, *, defer_transient: bool) -> Reply | None:
    """The SMTP reply that an answer calls for; None when the API would take the mail."""
    if isinstance(answer, NoAnswer):
        return Replies.API_UNREACHABLE.value
    row = next(row for row in TABLE if row.applies(answer))
    reply = row.deferred if defer_transient and row.deferred else row.reply
    return reply.filled(message=answer.message) if reply else None


def worth_asking_again(answer: Answer | NoAnswer) -> bool:
    """Whether the same question may get a better answer within seconds: 429, 5xx and no answer."""
    return isinstance(answer, NoAnswer) or answer.status == 429 or answer.status >= 500


def wait_before_next(state: tenacity.RetryCallState) -> float:
    """Seconds to wait: the API's Retry-After where it gave one, else a short, growing, jittered pause."""
    answer = state.outcome.result() if state.outcome else None
    if isinstance(answer, Answer) and answer.retry_after is not None:
        return answer.retry_after
    return BLIP_WAIT(state)


def question(sender: str) -> bytes:
    """The JSON of a preflight: everything the API checks is there, and nobody to send to."""
    return orjson.dumps({"from": sender, "to": [], "subject": "Preflight", "body": "<p>Preflight</p>"})


def _only_complains_about_to(answer: Answer) -> bool:
    return answer.status == 422 and bool(answer.fields) and all(f.split(".")[0] == "to" for f in answer.fields)


class Preflight:
    """Asks the API; questions of one key and sender that wait at the same moment share one request."""

    def __init__(self, api: ApiStream, *, timeout: float, ttl: float, defer_transient: bool) -> None:
        self._api = api
        self._timeout = timeout
        self._ttl = ttl
        self._defer_transient = defer_transient
        self._asked: dict[tuple[str, str], Waiters[Answer | NoAnswer]] = {}
        self._asking: set[asyncio.Task[None]] = set()
        self._good_until: OrderedDict[tuple[str, str], float] = OrderedDict()

    async def check(self, *, secret: str, sender: str) -> None:
        """Returns when the API would take mail from ``sender`` now. Raises ``SmtpError`` with the reply otherwise."""
        key = (secret, sender)
        if self._ttl and self._good_until.get(key, 0) > time.monotonic():
            return
        asked = self._asked.get(key)
        if asked is None:
            asked = self._asked[key] = Waiters()
            task = asyncio.create_task(self._ask_for(key))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)
        answer = await asked.join()
        reply = decide(answer, defer_transient=self._defer_transient)
        if reply is None:
            self._keep(key)
            return
        cause = answer.cause if isinstance(answer, NoAnswer) else f"{answer.status} {answer.code}"
        raise SmtpError(reply, cause=f"preflight: {cause}")

    async def _ask_for(self, key: tuple[str, str]) -> None:
        """Ask, and tell all who wait for the answer by then."""
        await self._gather(self._asked[key])
        try:
            answer = await self._ask(*key)
        except Exception as error:
            self._asked.pop(key).fail(error)
        else:
            self._asked.pop(key).answer(answer)

    @staticmethod
    async def _gather(asked: Waiters[Answer | NoAnswer]) -> None:
        """Wait as long as the loop's turns bring company: a crowd's messages arrive together."""
        until = time.monotonic() + GATHER_SECONDS
        company = 0
        while company < len(asked) and time.monotonic() < until:
            company = len(asked)
            for _ in range(GATHER_TURNS):
                await asyncio.sleep(0)

    def _keep(self, key: tuple[str, str]) -> None:
        if self._ttl:
            self._good_until[key] = time.monotonic() + self._ttl
            self._good_until.move_to_end(key)
            if len(self._good_until) > MAX_KEPT_ANSWERS:
                self._good_until.popitem(last=False)

    async def _ask(self, secret: str, sender: str) -> Answer | NoAnswer:
        body = question(sender)
        started = time.monotonic()
        deadline = started + self._timeout

        async def ask_once() -> Answer | NoAnswer:
            left = min(ATTEMPT_SECONDS, deadline - time.monotonic())
            if left <= 0:
                return NoAnswer(cause="DeadlineExceeded", was_sent=False)
            return await self._api.send(body, secret=secret, timeout=left)

        answer = await ask_once()
        if worth_asking_again(answer):
            answer = await self._ask_again(ask_once, answer, seconds=deadline - time.monotonic())
        PREFLIGHT_SECONDS.observe(time.monotonic() - started)
        return answer

    @staticmethod
    async def _ask_again(
        ask_once: Callable[[], Awaitable[Answer | NoAnswer]], first: Answer | NoAnswer, *, seconds: float
    ) -> Answer | NoAnswer:
        """Asks until the answer is not worth asking again or ``seconds`` are up; ``first`` counts as the first try."""
        known: list[Answer | NoAnswer] = [first]

        async def ask() -> Answer | NoAnswer:
            return known.pop() if known else await ask_once()

        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_result(worth_asking_again),
            wait=wait_before_next,
            stop=tenacity.stop_before_delay(max(0.0, seconds)),
            retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
        )
        answer: Answer | NoAnswer = await retrying(ask)
        return answer
