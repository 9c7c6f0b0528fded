"""The webhook of dead letters: each is told once at least, signed, and kept in Redis until the receiver has said 2xx.

A request is ``POST`` of one JSON line with three headers: ``Plunk-Relay-Event`` (an id that a repeat has too),
``Plunk-Relay-Timestamp`` (Unix seconds) and ``Plunk-Relay-Signature`` (``v1=`` and the hex HMAC-SHA256 of the
timestamp, a full stop and the body).
"""

from __future__ import annotations

import hashlib
import hmac
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

import redis

from shared.deadline import DeadlineAdapter, deadline
from shared.http_library import requests
from shared.log import get_logger
from shared.message_store import MessageStore

TIMEOUT: Final = 10.0
"""Seconds that one delivery may take."""

CLAIM_SECONDS: Final = 60.0
"""Seconds after which an event whose deliverer died is delivered by another."""

AT_ONCE: Final = 20
"""Events of one round, one after the other."""

FIRST_DELAY: Final = 5.0
LONGEST_DELAY: Final = 3600.0
MOST_TRIES: Final = 36
"""Seconds before the second try, at most between two, and how often in all: about a day and a half."""

log = get_logger(__name__)


def sign(body: bytes, *, secret: str, timestamp: int) -> str:
    """The value of ``Plunk-Relay-Signature``."""
    return "v1=" + hmac.new(secret.encode(), f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()


def delay_before(tries: int) -> float:
    """Seconds before the next try after ``tries`` that failed."""
    return min(FIRST_DELAY * 2.0 ** min(tries - 1, 20), LONGEST_DELAY)


class Webhook:
    """Delivers what is due, in a thread of its own: a slow receiver holds up neither mail nor housekeeping."""

    def __init__(self, store: MessageStore, *, url: str, secret: str) -> None:
        self._store = store
        self._url = url
        self._secret = secret
        self._session = requests.Session()
        self._session.trust_env = False
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, DeadlineAdapter(max_retries=0))
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="webhook")
        self._round: Future[int] | None = None

    def tick(self) -> None:
        """Begin a round where none is under way."""
        if self._round is None or self._round.done():
            self._round = self._thread.submit(self._safely)

    def deliver_due(self) -> int:
        """Deliver what is due, ``AT_ONCE`` events at most; how many were. Raises ``redis.RedisError``."""
        delivered = 0
        for event, body, tries in self._store.take_webhooks(AT_ONCE, claim=CLAIM_SECONDS):
            trouble = self._post(event, body)
            if trouble is None:
                self._store.end_webhook(event)
                delivered += 1
                continue
            bound = log.bind(webhook_event=event, reason=trouble, tries=tries)
            if tries >= MOST_TRIES:
                bound.error("Webhook given up: the dead letter itself is kept")
                self._store.end_webhook(event)
            else:
                bound.warning("Webhook waits for another try", in_seconds=delay_before(tries))
                self._store.delay_webhook(event, delay_before(tries))
        return delivered

    def _post(self, event: str, body: bytes) -> str | None:
        """None when the receiver said 2xx, else what went wrong; never its words nor its address."""
        timestamp = int(time.time())
        headers = {
            "Content-Type": "application/json",
            "Plunk-Relay-Event": event,
            "Plunk-Relay-Timestamp": str(timestamp),
            "Plunk-Relay-Signature": sign(body, secret=self._secret, timestamp=timestamp),
        }
        try:
            with deadline(TIMEOUT):
                answer = self._session.post(
                    self._url, data=body, headers=headers, timeout=TIMEOUT, allow_redirects=False
                )
        except (requests.RequestException, UnicodeError) as error:
            return type(error).__name__
        return None if answer.ok and answer.status_code < 300 else f"status {answer.status_code}"

    def _safely(self) -> int:
        try:
            return self.deliver_due()
        except redis.RedisError as error:
            log.warning("Webhooks wait for Redis", error=type(error).__name__)
        except Exception:
            log.exception("Webhook failed")
        return 0
