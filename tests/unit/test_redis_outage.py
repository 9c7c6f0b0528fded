"""Which of Redis's errors are an outage, and how often one is told."""

from __future__ import annotations

import pytest
import redis
from redis.exceptions import BusyLoadingError, MaxConnectionsError, NoScriptError

from forwarder import redis_outage
from forwarder.redis_outage import Outage, is_outage

OUTAGES = [
    redis.ConnectionError("Connection closed by server."),
    redis.TimeoutError("Timeout reading from socket"),
    BusyLoadingError("Redis is loading the dataset in memory"),
    redis.ReadOnlyError("You can't write against a read only replica."),
    redis.OutOfMemoryError("command not allowed when used memory > 'maxmemory'."),
    redis.ResponseError("UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)"),
    redis.ResponseError("BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE."),
    redis.ResponseError("MISCONF Errors writing to the AOF file: No space left on device"),
    redis.ResponseError("NOREPLICAS Not enough good replicas to write."),
    redis.ResponseError("Error running script: @user_script:1: -READONLY You can't write against a read only replica."),
]
DEFECTS = [
    redis.ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value"),
    redis.ResponseError("BUSYGROUP Consumer Group name already exists"),
    NoScriptError("No matching script."),
    MaxConnectionsError("Too many connections"),
    redis.DataError("Invalid input of type: 'NoneType'."),
    ValueError("READONLY "),
    None,
]


@pytest.mark.parametrize("error", OUTAGES, ids=repr)
def test_redis_away_is_an_outage(error: Exception) -> None:
    assert is_outage(error)


@pytest.mark.parametrize("error", DEFECTS, ids=repr)
def test_all_else_is_a_defect(error: Exception | None) -> None:
    assert not is_outage(error)


def test_an_outage_is_told_when_it_begins_when_it_changes_and_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(redis_outage.time, "monotonic", lambda: now)
    away, slow = redis.ConnectionError(), redis.TimeoutError()
    outage = Outage()
    assert not outage.end()
    assert [outage.is_news(error) for error in (away, away, slow, slow, away)] == [True, False, True, False, True]
    now += 59
    assert not outage.is_news(away)
    now += 1
    assert [outage.is_news(away), outage.is_news(away)] == [True, False]
    assert [outage.end(), outage.end()] == [True, False]
    assert outage.is_news(away), "a new one"
