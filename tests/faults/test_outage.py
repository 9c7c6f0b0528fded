"""An outage of hours, and of more than a day, on a simulated clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

import pytest

from forwarder.batch import BatchForwarder
from forwarder.sender import Outcome
from sandbox.redis_server import RedisServer
from shared.message_store import MessageStore
from shared.plunk_api import Answer, NoAnswer
from shared.queued_message import StoredMessage
from shared.verdict import judge
from tests.support.mail import queued_message
from tests.support.store_clock import StoreClock, without_fsync

HOUR: Final = 3600.0
LIFETIME: Final = 24 * HOUR
COUNT: Final = 12


@pytest.fixture(autouse=True)
def quick(redis_server: RedisServer) -> Iterator[None]:
    with without_fsync(redis_server):
        yield


class Api:
    """Up or down; remembers each call."""

    def __init__(self) -> None:
        self.is_up = False
        self.calls: Counter[str] = Counter()
        self.sent: list[str] = []

    def send(self, stored: StoredMessage, *, blips_until: float) -> Outcome:
        self.calls[stored.message.id] += 1
        if self.is_up:
            self.sent.append(stored.message.id)
        answer: Answer | NoAnswer = Answer(status=200) if self.is_up else NoAnswer(cause="ConnectionError")
        words = {"at": 0.0, "status": None, "code": "", "message": "the API did not answer"}
        return Outcome(verdict=judge(answer), answer=words)


class Outage:
    """A store, a forwarder and an API that is down, on one clock."""

    def __init__(self, server: RedisServer, patch: pytest.MonkeyPatch) -> None:
        self.clock = StoreClock(server.client(), patch)
        self.store = MessageStore(server.client(), "outage")
        self.api = Api()
        self.forwarder = BatchForwarder(
            self.store,
            self.api,  # type: ignore[arg-type]
            batch_size=COUNT,
            concurrency=1,
            lifetime=LIFETIME,
        )
        messages = [queued_message(f"m{number}", accepted_at=self.clock.now) for number in range(COUNT)]
        self.ids = self.store.accept(messages).ids

    def lasts(self, seconds: float) -> None:
        """Time passes in steps of a minute, and the forwarder does what is due."""
        until = self.clock.now + seconds
        while self.clock.now < until:
            self.clock.advance(60)
            if self.store.promote_due(COUNT) or not self.api.calls:
                self.forwarder.forward(job_id="job")
        assert self.store.verify(patience=0).mistakes == []


def test_an_outage_of_hours_is_waited_out_with_fair_retries(
    empty_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    outage = Outage(empty_redis, monkeypatch)
    outage.lasts(6 * HOUR)
    tries = [outage.api.calls[message_id] for message_id in outage.ids]
    # Eight within the first quarter of an hour, then one in 12 to 18 minutes: each message gets about the same.
    assert min(tries) > 6 * HOUR / 1100
    assert max(tries) < 8 + 6 * HOUR / 700
    assert max(tries) - min(tries) <= 8
    outage.api.is_up = True
    outage.lasts(1200)
    assert sorted(outage.api.sent) == sorted(outage.ids), "each once, none lost"
    assert outage.store.depth().undelivered == 0


def test_an_outage_of_more_than_a_lifetime_leaves_dead_letters_and_no_loss(
    empty_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    outage = Outage(empty_redis, monkeypatch)
    outage.lasts(LIFETIME - HOUR)
    assert outage.store.dead_ids() == []
    outage.lasts(2 * HOUR)
    assert sorted(outage.store.dead_ids()) == sorted(outage.ids)
    outage.api.is_up = True
    assert outage.store.requeue(outage.store.dead_ids()) == COUNT
    outage.forwarder.forward(job_id="job")
    assert sorted(outage.api.sent) == sorted(outage.ids)
    assert (outage.store.depth().undelivered, outage.store.dead_ids()) == (0, [])
