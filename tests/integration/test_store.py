"""The message store's steps against a real Redis."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis
from rq.exceptions import StopRequested

from forwarder.housekeeping import Housekeeping
from forwarder.worker import ForwarderWorker
from sandbox.processes import wait_until
from sandbox.redis_server import RedisServer
from shared.json_parts import Base64, JsonParts
from shared.message_store import (
    MOST_TAKEN_BYTES,
    PIECE_BYTES,
    PIECES_EXPIRE_SECONDS,
    TINY_BYTES,
    MessageStore,
    NotDurable,
)
from shared.queued_message import CodecError, State, StoredMessage
from shared.redis_connection import connect
from tests.support.mail import queued_message
from tests.support.pieces import after_the_first_piece

message = partial(queued_message, project_id="p")

GOLDEN = Path(__file__).parents[1] / "unit" / "golden"
ANSWER = {"at": 1.0, "status": 503, "code": "", "message": "down"}


def load(store: MessageStore, message_id: str) -> StoredMessage:
    stored = store.load([message_id])[0]
    assert isinstance(stored, StoredMessage)
    return stored


def taken(store: MessageStore, job_id: str = "j", count: int = 100) -> list[str]:
    return store.take(job_id, count)


def check(store: MessageStore, **counts: int) -> None:
    """The books are in order, and hold so many messages of each state."""
    audit = store.verify(patience=0)
    assert audit.mistakes == []
    assert audit.counts == counts


def at(store: MessageStore, seconds_ago: float) -> float:
    seconds, micros = store.redis.time()
    return float(seconds + micros / 1e6 - seconds_ago)


def test_messages_are_accepted_with_one_job(store: MessageStore) -> None:
    batch = [message(digest=f"d{n}") for n in range(10)]
    accepted = store.accept(batch, remember_seconds=60)
    assert accepted.ids == [one.id for one in batch]
    assert (accepted.undelivered, accepted.tickets) == (10, 0)
    (job_id,) = store.queue.job_ids
    job = store.queue.fetch_job(job_id)
    assert job is not None
    assert (job.args, job.func_name) == ([], "forwarder.batch.forward_batch")
    assert store.first_id("d3") == batch[3].id
    assert store.first_id("other") is None
    assert store.depth().waiting == 10
    check(store, waiting=10)


def test_the_life_of_a_message_that_waits_dies_and_is_retried(store: MessageStore) -> None:
    one = message()
    store.accept([one])
    assert taken(store) == [one.id]
    check(store, sending=1)
    assert (store.depth().waiting, store.depth().sending) == (0, 1)
    assert store.schedule_retry(one.id, job_id="j", delay=1000, attempts=1, generation=2, answer=ANSWER)
    assert (load(store, one.id).state, load(store, one.id).generation) == (State.RETRY, 2)
    check(store, retry=1)
    assert store.promote_due(10) == 0
    assert taken(store) == []
    store.redis.zadd("q:retries", {one.id: at(store, 1)})
    assert store.promote_due(10) == 1
    check(store, waiting=1)
    assert taken(store, "k") == [one.id]
    assert store.bury(one.id, job_id="k", attempts=2, generation=2, answer=ANSWER)
    assert store.dead_ids() == [one.id]
    dead = load(store, one.id)
    assert dead.last_answer == ANSWER
    assert dead.first_at is not None
    assert dead.died_at is not None
    assert one.accepted_at - 1 < dead.first_at <= dead.died_at
    assert store.depth().undelivered == 0
    check(store, dead=1)
    assert store.requeue([one.id, "unknown"]) == 1
    assert store.dead_ids() == []
    assert load(store, one.id).lifetime_from >= dead.died_at
    assert store.depth().oldest_accepted_at == pytest.approx(one.accepted_at)
    check(store, waiting=1)
    store.delete([one.id])
    assert store.load([one.id]) == [None]
    check(store)


def test_nothing_is_left_of_what_was_sent(store: MessageStore) -> None:
    store.accept([message(), message()])
    store.delete(taken(store))
    store.end_lease("j")
    store.queue.empty()
    assert list(store.redis.scan_iter("q:*")) == []


def test_a_worker_that_wakes_up_late_changes_nothing(store: MessageStore) -> None:
    one, gone = message(), message()
    store.accept([one, gone])
    assert set(taken(store, "late")) == {one.id, gone.id}
    store.end_lease("late")
    assert store.recover() == 2
    assert set(taken(store, "new")) == {one.id, gone.id}
    store.delete([gone.id])
    for id_ in (one.id, gone.id):
        assert not store.schedule_retry(id_, job_id="late", delay=1, attempts=9, generation=9, answer=None)
        assert not store.bury(id_, job_id="late", attempts=9, generation=9, answer=None)
    assert store.give_back([one.id, gone.id], job_id="late") == 0
    assert store.load([gone.id]) == [None]
    assert load(store, one.id).attempts == 0
    check(store, sending=1)


def test_what_was_sent_is_forgotten_wherever_it_stands(store: MessageStore) -> None:
    waiting, retry, dead, _ = batch = [message(accepted_at=float(n)) for n in range(4)]
    store.accept(batch)
    taken(store)
    store.schedule_retry(retry.id, job_id="j", delay=9, attempts=1, generation=1, answer=None)
    store.bury(dead.id, job_id="j", attempts=1, generation=1, answer=None)
    store.give_back([waiting.id], job_id="j")
    check(store, waiting=1, retry=1, dead=1, sending=1)
    store.delete([one.id for one in batch])
    check(store)
    assert store.redis.keys("q:message:*") == store.redis.keys("q:lane:*") == []


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda r, i: r.zadd("q:dead", {i: 1}), "is waiting, but stands in messages, lane, dead"),
        (lambda r, i: r.zrem("q:lane:p", i), "is waiting, but stands in messages"),
        (lambda r, i: r.zrem("q:messages", i), "is waiting, but stands in lane"),
        (lambda r, i: r.hset(f"q:message:{i}", "state", "sending"), "is sending, but stands in messages, lane"),
        (lambda r, i: r.hset(f"q:message:{i}", "state", "lost"), "is lost, but stands in messages, lane"),
        (lambda r, i: r.hdel(f"q:message:{i}", "body"), "has no envelope or body"),
        (lambda r, i: r.hdel(f"q:message:{i}", "state"), "is broken, but stands in messages, lane"),
        (lambda r, i: r.delete(f"q:message:{i}"), "is gone, but stands in q:messages"),
        (lambda r, i: r.zrem("q:lanes", "p"), "in a lane that has no turn"),
        (lambda r, i: r.zadd("q:retries", {"ghost": 1}), "ghost: is gone, but stands in q:retries"),
        (lambda r, i: r.zadd("q:lane:other", {i: 1}), "belongs to another project, but stands in q:lane:other"),
        (lambda r, i: r.zadd("q:lane:other", {"ghost": 1}), "ghost: is gone, but stands in q:lane:other"),
        (lambda r, i: r.delete("rq:queue:q"), "neither a job in the queue nor a forwarder"),
    ],
)
def test_verify_finds_each_kind_of_disorder(
    store: MessageStore, spoil: Callable[[redis.Redis, str], object], complaint: str
) -> None:
    one = message()
    store.accept([one])
    check(store, waiting=1)
    spoil(store.redis, one.id)
    mistakes = store.verify(patience=0).mistakes
    assert any(complaint in line for line in mistakes), mistakes


def test_verify_finds_a_message_whose_job_shows_no_sign_of_life(store: MessageStore) -> None:
    one = message()
    store.accept([one])
    taken(store)
    check(store, sending=1)
    store.end_lease("j")
    assert store.verify(patience=0).mistakes == [f"{one.id}: is being sent by a job without a sign of life"]
    assert store.recover() == 1
    check(store, waiting=1)


def test_what_a_dead_worker_had_in_hand_is_given_back_and_a_living_ones_is_not(store: MessageStore) -> None:
    store.accept([message(project_id=f"p{n % 3}") for n in range(9)])
    lost = store.take("dead", 5, lease=0.001)
    kept = store.take("alive", 4)
    wait_until(lambda: not store.redis.exists("q:lease:dead"), timeout=5, what="the lease's end")
    housekeeping = Housekeeping(store, batch_size=10)
    assert housekeeping.sweep() == 5
    assert housekeeping.sweep() == 0
    check(store, waiting=5, sending=4)
    assert sorted(taken(store, "next")) == sorted(lost)
    assert all(load(store, one).job_id == "alive" for one in kept)


def test_one_housekeeper_at_a_time_and_the_next_when_it_is_gone(store: MessageStore) -> None:
    first, second = Housekeeping(store, batch_size=10), Housekeeping(store, batch_size=10)
    assert [first.tick(), second.tick(), first.tick()] == [True, False, True]
    first.stop()
    assert second.tick()
    assert not first.tick()
    # As when it was killed: nothing is handed on, the lock ends by itself.
    store.redis.pexpire("q:housekeeper", 1)
    wait_until(first.tick, timeout=5, what="the lock's end")


def test_housekeeping_adds_jobs_where_mail_waits_without_one(store: MessageStore) -> None:
    store.accept([message() for _ in range(25)])
    store.queue.empty()
    housekeeping = Housekeeping(store, batch_size=10)
    housekeeping.tick()
    assert len(store.queue.job_ids) == 3
    housekeeping.tick()
    assert len(store.queue.job_ids) == 3
    taken(store)
    store.queue.empty()
    housekeeping.tick()
    assert store.queue.job_ids == [], "all is in hand"


def test_every_lane_gets_a_fair_share_and_the_turns_go_round(store: MessageStore) -> None:
    of = {}
    for project, count in (("big", 1000), ("small", 3), ("middle", 50)):
        for n in range(count):
            one = message(project_id=project, accepted_at=float(n))
            of[one.id] = project
            store.accept([one], with_ticket=False)
    projects = [of[id_] for id_ in taken(store, count=30)]
    assert set(projects[:3]) == set(projects[3:6]) == {"big", "small", "middle"}, "interleaved"
    assert Counter(projects)["small"] == 3
    assert abs(Counter(projects)["big"] - Counter(projects)["middle"]) <= 1, "what the small one leaves is shared"
    late = message(project_id="late")
    store.accept([late])
    assert late.id in taken(store, count=3), "whoever comes new waits for one round at most"
    assert sum(of.get(id_) == "big" for id_ in taken(store, count=2)) == 1
    check(store, waiting=1054 - 35, sending=35)


def test_more_lanes_than_places_take_turns(store: MessageStore) -> None:
    of = {}
    for n in range(60):
        one = message(project_id=f"p{n % 20}")
        of[one.id] = one.project_id
        store.accept([one], with_ticket=False)
    rounds = [{of[id_] for id_ in taken(store, count=5)} for _ in range(4)]
    assert len(set().union(*rounds)) == 20, "each had its turn before any had its second"


def test_a_lane_keeps_the_order_of_acceptance_whatever_comes_back(store: MessageStore) -> None:
    batch = [message(accepted_at=float(n)) for n in range(6)]
    store.accept(batch)
    ids = [one.id for one in batch]
    assert taken(store, count=4) == ids[:4]
    assert store.give_back(ids[1:4], job_id="j") == 3
    assert taken(store) == ids[1:]


def test_a_take_stops_at_so_many_bytes(store: MessageStore) -> None:
    store.accept([message(body=b"x" * (MOST_TAKEN_BYTES // 4 + 1)) for _ in range(6)])
    assert len(taken(store)) <= 6
    store.recover()
    store.accept([message(project_id=f"p{n}", body=b"x" * (MOST_TAKEN_BYTES // 4 + 1)) for n in range(8)])
    store.end_lease("j")
    store.recover()
    assert len(taken(store, count=9)) == 4


def test_a_paused_project_stands_in_nobodys_way_and_a_longer_pause_stays(store: MessageStore) -> None:
    busy, other = message(project_id="busy"), message(project_id="other")
    store.accept([busy, other])
    store.slow_down("busy", pause=100, rate=20, refused=True)
    until = store.redis.zscore("q:parked", "busy")
    store.slow_down("busy", pause=1, rate=20, refused=True)
    assert store.redis.zscore("q:parked", "busy") == until
    assert taken(store) == [other.id]
    store.accept([message(project_id="busy")])
    assert taken(store) == [], "new mail does not end the pause"
    check(store, waiting=2, sending=1)
    store.redis.zadd("q:parked", {"busy": at(store, 0.5)})
    store.redis.delete("q:pace:busy")
    assert len(taken(store)) == 2


def test_a_paced_project_gets_its_rate_and_no_more(store: MessageStore) -> None:
    store.accept([message() for _ in range(200)])
    store.slow_down("p", pause=0, rate=10, refused=False)
    assert taken(store) == []
    started = time.monotonic()
    count = 0
    while time.monotonic() - started < 1.5:
        count += len(taken(store))
        time.sleep(0.02)
    lasted = time.monotonic() - started
    assert 0.6 * lasted * 10 - 3 <= count <= lasted * 10 + 1
    check(store, waiting=200 - count, sending=count)


def test_a_refusal_at_its_pace_slows_a_project_further_once(store: MessageStore) -> None:
    def rate() -> float:
        return float(store.redis.hget("q:pace:p", "rate"))  # type: ignore[arg-type]

    store.slow_down("p", pause=0, rate=20, refused=True)
    store.slow_down("p", pause=0, rate=20, refused=True)
    assert rate() == 20, "the calls that were under way together count as one"
    store.redis.hset("q:pace:p", "cut", at(store, 5))
    store.slow_down("p", pause=0, rate=20, refused=True)
    store.slow_down("p", pause=0, rate=20, refused=False)
    assert rate() == pytest.approx(16)
    assert 0 < store.redis.ttl("q:pace:p") <= 60  # type: ignore[operator]


def test_a_clock_that_jumps_back_holds_nothing_up(store: MessageStore) -> None:
    parked, retry = message(project_id="parked"), message(project_id="retry")
    store.accept([parked, retry])
    taken(store)
    store.give_back([parked.id], job_id="j")
    store.schedule_retry(retry.id, job_id="j", delay=900, attempts=1, generation=1, answer=None)
    store.slow_down("parked", pause=900, rate=20, refused=True)
    store.redis.delete("q:pace:parked")
    assert store.promote_due(10) == 0
    # As if a day had been taken from the clock.
    store.redis.zincrby("q:retries", 86_400, retry.id)
    store.redis.zincrby("q:parked", 86_400, "parked")
    assert store.promote_due(10) == 1
    assert set(taken(store)) == {parked.id, retry.id}


def test_a_clients_repeat_is_one_message_in_a_group_and_across_groups(store: MessageStore) -> None:
    first, again, other = message(digest="d"), message(digest="d"), message(digest="e")
    assert store.accept([first, again, other], remember_seconds=60).ids == [first.id, first.id, other.id]
    third = message(digest="d")
    assert store.accept([third], remember_seconds=60).ids == [first.id]
    without = [message(), message()]
    assert store.accept(without, remember_seconds=60).ids == [one.id for one in without]
    check(store, waiting=4)
    store.delete([first.id])
    assert store.accept([message(digest="d")], remember_seconds=60).ids == [first.id], "also when it is sent already"
    fresh = message(digest="d")
    assert store.accept([fresh], remember_seconds=0).ids == [fresh.id], "switched off"
    assert 30 < store.redis.ttl("q:seen:d") <= 60  # type: ignore[operator]


def test_two_processes_that_get_the_same_message_at_once_store_it_once(
    store: MessageStore, empty_redis: RedisServer
) -> None:
    def put(n: int) -> str:
        own = MessageStore(empty_redis.client(), "q")
        return own.accept([message(digest=f"d{n // 8}")], remember_seconds=60).ids[0]

    with ThreadPoolExecutor(8) as threads:
        ids = list(threads.map(put, range(80)))
    assert all(len(set(ids[n : n + 8])) == 1 for n in range(0, 80, 8))
    check(store, waiting=10)


def test_mail_that_an_earlier_release_queued_is_taken(store: MessageStore) -> None:
    golden = orjson.loads((GOLDEN / "queued_message_v1.json").read_bytes())
    golden["state"] = "waiting"
    envelope = orjson.loads(golden["envelope"])
    store.redis.hset(f"q:message:{envelope['id']}", mapping=golden)
    store.redis.zadd("q:messages", {envelope["id"]: envelope["accepted_at"]})
    store.redis.zadd("q:waiting", {envelope["id"]: envelope["accepted_at"]})
    Housekeeping(store, batch_size=10).tick()
    check(store, waiting=1)
    assert taken(store) == [envelope["id"]]
    stored = load(store, envelope["id"])
    assert stored.message.project_id == envelope["project"]
    assert not store.redis.exists("q:waiting")


def test_what_cannot_be_read_is_told_apart_from_what_is_gone(store: MessageStore) -> None:
    one = message()
    store.accept([one])
    store.redis.hset(f"q:message:{one.id}", "envelope", b"{}")
    broken, gone = store.load([one.id, "gone"])
    assert isinstance(broken, CodecError)
    assert gone is None


# Large bodies, in pieces

LARGE = bytes(range(256)) * (PIECE_BYTES // 256) * 3 + b"the end"
"""Four pieces, the last one short."""


def bodies(store: MessageStore) -> list[str]:
    return [key.decode() for key in store.redis.keys("q:body:*")]  # type: ignore[union-attr]


def test_a_large_body_lies_in_pieces_through_its_messages_life(store: MessageStore) -> None:
    one, small = message(body=LARGE, digest="d"), message(body=b"x" * PIECE_BYTES)
    assert (store.kinds_of(one.body), store.kinds_of(small.body)) == ("jjjj", "")
    store.accept([small, one], remember_seconds=60)
    assert bodies(store) == [f"q:body:{one.id}"]
    assert store.redis.llen(f"q:body:{one.id}") == 4
    assert store.redis.hget(f"q:message:{one.id}", "body") is None
    check(store, waiting=2)
    assert load(store, one.id).message.body == LARGE
    assert load(store, small.id).message.body == small.body
    (without,) = store.load([one.id], with_body=False)
    assert isinstance(without, StoredMessage)
    assert without.message.body == b""
    assert set(taken(store)) == {one.id, small.id}
    store.delete([small.id])
    assert store.schedule_retry(one.id, job_id="j", delay=0, attempts=1, generation=1, answer=ANSWER)
    assert store.promote_due(10) == 1
    assert taken(store, "k") == [one.id]
    assert store.bury(one.id, job_id="k", attempts=2, generation=1, answer=ANSWER)
    check(store, dead=1)
    assert load(store, one.id).message.body == LARGE
    assert store.requeue([one.id]) == 1
    assert taken(store, "l") == [one.id]
    store.end_lease("l")
    assert store.recover() == 1
    check(store, waiting=1)
    assert load(store, one.id).message.body == LARGE
    store.delete([one.id])
    check(store)
    assert bodies(store) == []


def test_files_lie_in_pieces_of_their_bytes_and_are_read_as_base64(store: MessageStore) -> None:
    file = bytes(range(256)) * (PIECE_BYTES // 256) + b"the end"
    call = JsonParts([b'{"attachments":[{"content":"', Base64(file), b'"},{"content":"', Base64(b"small"), b'"}]}'])
    one = message(body=call)
    assert store.kinds_of(call) == "jbbjbj"
    store.accept([one])
    assert store.redis.lrange(f"q:body:{one.id}", 1, 2) == [file[: PIECE_BYTES // 3 * 3], file[PIECE_BYTES // 3 * 3 :]]
    check(store, waiting=1)
    assert load(store, one.id).message.call == bytes(call)
    assert int(store.redis.hget(f"q:message:{one.id}", "size")) == len(bytes(call))  # type: ignore[arg-type]


def test_tiny_pieces_go_along_with_large_ones(store: MessageStore) -> None:
    def calls() -> tuple[int, int]:
        stats: Any = store.redis.info("commandstats")
        return stats.get("cmdstat_rpush", {}).get("calls", 0), stats.get("cmdstat_rpushx", {}).get("calls", 0)

    file = b"file" * (PIECE_BYTES // 2)
    call = JsonParts([b'{"content":"', Base64(file), b'"},{"content":"', Base64(b"small"), b'"}]}'])
    one = message(body=call)
    assert store.kinds_of(call) == "jbbbjbj"
    before = calls()
    store.stage(one.id, one.body)
    assert (before[0] + 1, before[1] + 1) == calls(), "one command a large piece"
    store.accept([one], staged=[one.id])
    assert load(store, one.id).message.call == bytes(call)


def test_no_command_writes_more_than_a_large_piece_and_tiny_ones(store: MessageStore) -> None:
    body = LARGE * 3
    commands = store._commands(body)
    assert b"".join(piece for pieces in commands for piece in pieces) == body
    assert max(sum(map(len, pieces)) for pieces in commands) <= PIECE_BYTES + TINY_BYTES


def test_pieces_that_go_midway_do_not_come_back_without_their_beginning_and_without_end(
    store: MessageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = message(body=LARGE)
    limit = store.redis.connection_pool.connection_kwargs
    with redis.Redis(host=limit["host"], port=limit["port"]) as client:
        # As when they expire, or when a person clears up.
        after_the_first_piece(monkeypatch, client, lambda: client.delete(f"q:body:{one.id}"))
        store.stage(one.id, one.body)
    assert bodies(store) == []
    assert store.accept([one], staged=[one.id]).ids == [""]
    check(store)


def test_pieces_of_an_earlier_release_stand_for_themselves_and_those_of_a_later_one_are_left_alone(
    store: MessageStore,
) -> None:
    early, late = message(body=LARGE), message(body=LARGE)
    store.accept([early, late])
    store.redis.hdel(f"q:message:{early.id}", "kinds")
    store.redis.hset(f"q:message:{late.id}", "kinds", "jjzj")
    read, unread = store.load([early.id, late.id])
    assert isinstance(read, StoredMessage)
    assert read.message.body == LARGE
    assert isinstance(unread, CodecError)


def test_the_pieces_of_a_repeat_go(store: MessageStore) -> None:
    first, again = message(body=LARGE, digest="d"), message(body=LARGE, digest="d")
    store.accept([first], remember_seconds=60)
    assert store.accept([again], remember_seconds=60).ids == [first.id]
    assert bodies(store) == [f"q:body:{first.id}"]
    assert load(store, first.id).message.body == LARGE
    check(store, waiting=1)


def test_a_step_that_is_done_twice_leaves_its_message_as_it_was(store: MessageStore) -> None:
    one = message(body=LARGE, digest="d")
    for staged in (None, [one.id]):
        assert store.accept([one], staged=staged, remember_seconds=60).ids == [one.id]
    assert load(store, one.id).message.body == LARGE
    check(store, waiting=1)


def test_what_was_stored_after_all_keeps_its_body_when_it_is_let_go(store: MessageStore) -> None:
    kept, gone = message(body=LARGE), message(body=LARGE)
    store.accept([kept])
    store.stage(gone.id, gone.body)
    # As when the disk did not confirm the step in time: its messages are refused, and stored all the same.
    store.unstage([kept.id, gone.id], after=NotDurable())
    assert bodies(store) == [f"q:body:{kept.id}"]
    assert load(store, kept.id).message.body == LARGE
    check(store, waiting=1)


def test_a_redis_that_does_not_answer_is_not_asked_to_let_go(store: MessageStore) -> None:
    one = message(body=LARGE)
    store.stage(one.id, one.body)
    for error in (redis.TimeoutError(), redis.ConnectionError()):
        store.unstage([one.id], after=error)
    assert bodies(store) == [f"q:body:{one.id}"]
    store.unstage([one.id], after=redis.ResponseError())
    assert bodies(store) == []


def test_pieces_that_no_step_claims_are_no_message_and_expire(store: MessageStore) -> None:
    one = message(body=LARGE)
    store.stage(one.id, one.body)
    assert 0 < store.redis.ttl(f"q:body:{one.id}") <= PIECES_EXPIRE_SECONDS  # type: ignore[operator]
    assert store.load([one.id]) == [None]
    check(store)
    store.accept([one], staged=[one.id])
    assert store.redis.ttl(f"q:body:{one.id}") == -1
    check(store, waiting=1)


@pytest.mark.parametrize("left", [0, 3, 5])
def test_a_message_whose_pieces_are_not_all_there_is_not_stored_and_its_company_is(
    store: MessageStore, left: int
) -> None:
    first, large, last = message(), message(body=LARGE, digest="d"), message()
    store.stage(large.id, large.body)
    for _ in range(4 - left):
        store.redis.rpop(f"q:body:{large.id}")
    for _ in range(left - 4):
        store.redis.rpushx(f"q:body:{large.id}", b"one more")
    accepted = store.accept([first, large, last], staged=[large.id], remember_seconds=60)
    assert accepted.ids == [first.id, "", last.id]
    assert store.load([large.id]) == [None]
    assert store.first_id("d") is None
    check(store, waiting=2)


def test_a_full_redis_keeps_no_half_of_a_large_message(store: MessageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    one = message(body=LARGE)
    limit = store.redis.connection_pool.connection_kwargs
    client = redis.Redis(host=limit["host"], port=limit["port"])
    there: list[list[str]] = []

    def fill_up() -> None:
        there.append(bodies(store))
        client.config_set("maxmemory", "1mb")

    after_the_first_piece(monkeypatch, client, fill_up)
    try:
        with pytest.raises(redis.OutOfMemoryError) as caught:
            store.accept([one])
        assert len(str(caught.value)) < 200, "the error does not quote the message"
        assert there == [[f"q:body:{one.id}"]]
        assert bodies(store) == []
        # Full between the pieces and the step that accepts: PERSIST alone would be let through.
        client.config_set("maxmemory", "0")
        monkeypatch.undo()
        store.stage(one.id, one.body)
        client.config_set("maxmemory", "1mb")
        with pytest.raises(redis.OutOfMemoryError):
            store.accept([one], staged=[one.id])
        assert store.redis.ttl(f"q:body:{one.id}") > 0  # type: ignore[operator]
    finally:
        client.config_set("maxmemory", "0")
        client.close()
    check(store)


def test_redis_serves_others_between_two_pieces(store: MessageStore) -> None:
    store.piece_bytes = 64 * 1024
    one = message(body=LARGE * 4)
    pieces = len(store.kinds_of(one.body))
    limit = store.redis.connection_pool.connection_kwargs
    seen: set[int] = set()
    staging = threading.Thread(target=store.stage, args=(one.id, one.body))
    with redis.Redis(host=limit["host"], port=limit["port"]) as other:
        staging.start()
        while staging.is_alive():
            seen.add(other.llen(f"q:body:{one.id}"))  # type: ignore[arg-type]
    assert len([count for count in seen if 0 < count < pieces]) > 2, seen
    assert store.redis.llen(f"q:body:{one.id}") == pieces


def test_a_client_for_large_values_sends_them_as_they_are(store: MessageStore) -> None:
    limit = store.redis.connection_pool.connection_kwargs
    url = f"redis://{limit['host']}:{limit['port']}"
    apart = MessageStore(connect(url), "q", bodies=connect(url, for_large_values=True))
    one = message(body=LARGE)
    apart.accept([one])
    assert load(store, one.id).message.body == LARGE
    check(store, waiting=1)


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda r, i: r.delete(f"q:body:{i}"), "pieces of its body are missing"),
        (lambda r, i: r.rpop(f"q:body:{i}"), "pieces of its body are missing"),
        (lambda r, i: r.expire(f"q:body:{i}", 60), "its body will expire"),
        (lambda r, i: r.hdel(f"q:message:{i}", "pieces"), "has no envelope or body"),
        (lambda r, _: r.rpush("q:body:other", b"x"), "other: is gone, but its body is kept"),
    ],
)
def test_verify_finds_what_is_wrong_with_pieces(
    store: MessageStore, spoil: Callable[[redis.Redis, str], object], found: str
) -> None:
    one = message(body=LARGE)
    store.accept([one])
    check(store, waiting=1)
    spoil(store.redis, one.id)
    (mistake,) = store.verify(patience=0).mistakes
    assert found in mistake


def test_a_large_message_without_its_pieces_cannot_be_read(store: MessageStore) -> None:
    one = message(body=LARGE)
    store.accept([one])
    store.redis.rpop(f"q:body:{one.id}")
    (broken,) = store.load([one.id])
    assert isinstance(broken, CodecError)
    assert "4 pieces" in str(broken)
    # Nor one that is told to have fewer: it would be sent without its end.
    store.redis.hset(f"q:message:{one.id}", "kinds", "jjj")
    assert isinstance(store.load([one.id])[0], CodecError)
    store.redis.hset(f"q:message:{one.id}", "pieces", "x")
    assert isinstance(store.load([one.id])[0], CodecError)


def test_a_large_message_that_goes_while_it_is_read_is_gone(
    store: MessageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = message(body=LARGE)
    store.accept([one])
    read = store.redis.lindex

    def read_late(key: str, number: int) -> object:
        if number == 2:
            store.delete([one.id])
        return read(key, number)

    monkeypatch.setattr(store.redis, "lindex", read_late)
    assert store.load([one.id]) == [None]


def test_large_bodies_count_among_the_bytes_that_are_taken(store: MessageStore) -> None:
    store.piece_bytes = MOST_TAKEN_BYTES // 16
    store.accept([message(project_id=f"p{n}", body=b"x" * (MOST_TAKEN_BYTES // 4 + 1)) for n in range(8)])
    assert len(taken(store)) == 4


def test_a_stopping_worker_takes_no_further_job(store: MessageStore) -> None:
    store.queue.enqueue("time.sleep", 0)
    worker = ForwarderWorker(store.queue, connection=store.redis)
    worker.request_stop(signal.SIGTERM, None)
    with pytest.raises(StopRequested):
        worker.dequeue_job_and_maintain_ttl(1)
    assert len(store.queue.job_ids) == 1
