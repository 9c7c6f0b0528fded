"""One project's backlog delays no other project's mail: real Redis, real forwarder, the API's rate limit on or off.

``FAIRNESS_MESSAGES=50000`` runs it at full size.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.processes import wait_until
from sandbox.stack import DEMO_PROJECT, Stack
from shared.message_store import MessageStore
from shared.queued_message import StoredMessage
from tests.support.mail import queued_message
from tests.support.stacks import started
from tests.support.wire import Wire, simple

BACKLOG = int(os.environ.get("FAIRNESS_MESSAGES", "2000"))
OTHER_SECRET = "sk_other_0123456789abcdef0123456789abcdef"


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    with started(Stack(tmp_path, tls=False)) as own:
        yield own


def fill(store: MessageStore, project_id: str, count: int) -> None:
    """A backlog, as an ingress would have queued it."""
    for start in range(0, count, 500):
        numbers = range(start, min(start + 500, count))
        store.accept([queued_message(f"a{number}", project_id=project_id) for number in numbers])


def single(stack: Stack, subject: str) -> tuple[float, int]:
    """The other project's one message by SMTP: seconds from its 250 to the API, and backlog mails sent meanwhile."""
    with Wire(stack.port_submission) as wire:
        assert wire.login(OTHER_SECRET).startswith("235")
        data = simple(subject=subject, sender="a@other.example")
        assert wire.message(data, sender="a@other.example").startswith("250")
    accepted = time.time()
    before = stack.api.counts()["sent"]

    def found() -> list[dict[str, object]]:
        return [mail for mail in stack.api.sent() if mail["body"]["subject"] == subject]

    wait_until(found, timeout=60, what="the single message", poll=0.05)
    (mail,) = found()
    return float(str(mail["at"])) - accepted, stack.api.counts()["sent"] - before - 1


@pytest.mark.timeout(600)
@pytest.mark.parametrize("limited", [True, False], ids=["rate-limited", "unlimited"])
def test_a_backlog_of_one_project_does_not_delay_anothers_single_message(stack: Stack, limited: bool) -> None:
    stack.add_project(OTHER_SECRET, verified=["other.example"])
    stack.api.options(rate_limit=limited)
    store = MessageStore(stack.redis.client(), "plunk-smtp")
    fill(store, DEMO_PROJECT, BACKLOG)
    stack.start_ingress()
    started = time.time()
    stack.start_forwarder()
    # Past the rate limit's burst, or in the middle of the work.
    wait_until(lambda: stack.api.counts()["sent"] >= 60, timeout=60, what="the backlog's beginning")
    delays = [single(stack, f"single{number}") for number in range(3)]
    if limited:
        steady, since = stack.api.counts()["sent"], time.time()
        wait_until(lambda: stack.api.counts()["sent"] >= steady + 40, timeout=30, what="40 mails at the project's rate")
        print(f"\nsteady rate {40 / (time.time() - since):.1f}/s of 20/s")
    waited = time.time() - started
    depth, counts = store.depth(), stack.api.counts()
    backlog_sent = counts["sent"] - len(delays)
    print(
        f"\nbacklog {BACKLOG}, {'limited to 20/s' if limited else 'unlimited'}: single messages took"
        f" {', '.join(f'{delay:.2f}' for delay, _ in delays)} s; {backlog_sent} of the backlog in {waited:.1f} s;"
        f" 429: {counts['statuses'].get('429', 0)}; {depth}"
    )
    assert depth.undelivered > BACKLOG / 3 or not limited, "the backlog was still there"
    if limited:
        # 20/s: two seconds' worth at most went before it, however loaded this machine is.
        assert all(passed <= 2 * 20 for _, passed in delays), delays
        assert backlog_sent <= 50 + 20 * waited + 1, "the API's own limit"
        assert counts["statuses"].get("429", 0) < backlog_sent / 5, "it is kept to, not run against"
        # Waiting for one's turn is no failed attempt.
        ids = [value.decode() for value in store.redis.zrange(store.messages_key, 0, 199)]  # type: ignore[union-attr]
        waiting = [stored for stored in store.load(ids) if isinstance(stored, StoredMessage)]
        assert waiting
        assert all(stored.attempts == 0 for stored in waiting)
        assert depth.retries == depth.dead == 0
    else:
        assert all(passed < max(BACKLOG / 4, 400) for _, passed in delays), delays
    assert store.verify(patience=1).mistakes == []
