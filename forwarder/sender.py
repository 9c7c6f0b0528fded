"""One message to the API: its secret, the call, a short patience with blips, the verdict."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Final

import tenacity

from forwarder.secrets import Secrets
from shared.metrics import FORWARD_SECONDS
from shared.plunk_api import Answer, NoAnswer, PlunkApi, RateLimit
from shared.projects import DirectoryUnavailable
from shared.queued_message import StoredMessage
from shared.settings import OnAmbiguous
from shared.verdict import Verdict, judge

BLIP_SECONDS: Final = 2.0
"""Seconds within which a blip is tried again inside the job; past that the message waits outside."""

LEAST_SECONDS: Final = 0.5
"""Seconds that a call gets even where the look-up of the secret has used the time up."""

BLIP_WAIT: Final = tenacity.wait_exponential_jitter(multiplier=0.2, max=1.0, jitter=0.2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of trying to send one message."""

    verdict: Verdict
    answer: dict[str, Any]
    """``{"at", "status", "code", "message"}``: kept with the message."""
    retry_after: float | None = None
    rate: RateLimit | None = None
    """What the answer said of the project's rate limit."""


class Sender:
    """Sends messages from many threads at once.

    ``timeout`` (seconds) bounds a message's turn as a whole: the secret's look-up, the call, and what is tried again.
    """

    def __init__(self, api: PlunkApi, secrets: Secrets, *, timeout: float, on_ambiguous: OnAmbiguous) -> None:
        self._api = api
        self._secrets = secrets
        self._timeout = timeout
        self._on_ambiguous = on_ambiguous

    def send(self, stored: StoredMessage, *, blips_until: float) -> Outcome:
        """Try to send; blips are tried again until the monotonic time ``blips_until`` at most. Never raises."""
        ends_at = time.monotonic() + self._timeout
        try:
            secret = self._secrets.of(stored.message.project_id, timeout=self._timeout)
            if secret is None:
                return _gone()
            answer = self._call(stored, secret, ends_at, blips_until)
            verdict = judge(answer, on_ambiguous=self._on_ambiguous)
            if verdict is Verdict.FRESH_SECRET:
                secret = self._secrets.of(stored.message.project_id, timeout=_left(ends_at), fresh=True)
                if secret is None:
                    return _gone()
                answer = self._call(stored, secret, ends_at, blips_until)
                verdict = judge(answer, secret_is_fresh=True, on_ambiguous=self._on_ambiguous)
        except DirectoryUnavailable as error:
            return Outcome(verdict=Verdict.AGAIN, answer=_record(None, "", f"the database did not answer ({error})"))
        if isinstance(answer, NoAnswer):
            text = f"the API did not answer ({answer.cause})"
            return Outcome(verdict=verdict, answer=_record(None, "", text))
        return Outcome(
            verdict=verdict,
            answer=_record(answer.status, answer.code, answer.message),
            retry_after=answer.retry_after,
            rate=answer.rate,
        )

    def _call(self, stored: StoredMessage, secret: str, ends_at: float, blips_until: float) -> Answer | NoAnswer:
        def call() -> Answer | NoAnswer:
            started = time.monotonic()
            answer = self._api.send(
                stored.message.call, secret=secret, timeout=_left(ends_at), idempotency_key=stored.idempotency_key
            )
            FORWARD_SECONDS.observe(time.monotonic() - started)
            return answer

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_result(_is_blip),
            wait=BLIP_WAIT,
            stop=tenacity.stop_before_delay(
                max(0.0, min(BLIP_SECONDS, blips_until - time.monotonic(), ends_at - time.monotonic()))
            ),
            retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
        )
        answer: Answer | NoAnswer = retrying(call)
        return answer


def _is_blip(answer: Answer | NoAnswer) -> bool:
    """A connection that was refused or reset, or a proxy's passing trouble: worth a second try at once."""
    if isinstance(answer, NoAnswer):
        return answer.cause not in ("ReadTimeout", "ConnectTimeout")
    return answer.status in (502, 503, 504)


def _left(ends_at: float) -> float:
    return max(LEAST_SECONDS, ends_at - time.monotonic())


def _gone() -> Outcome:
    return Outcome(verdict=Verdict.DEAD, answer=_record(None, "PROJECT_GONE", "the project no longer exists"))


def _record(status: int | None, code: str, message: str) -> dict[str, Any]:
    return {"at": time.time(), "status": status, "code": code, "message": message}
