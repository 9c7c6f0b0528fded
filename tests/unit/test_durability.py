"""Whether Redis keeps what it acknowledges: the decision as a table."""

from __future__ import annotations

from typing import Any

import pytest

from shared.redis_connection import Durability, judge_durability

GOOD = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}
OLD, NEW, VALKEY = (
    {"redis_version": "7.0.15"},
    {"redis_version": "7.2.0"},
    {"redis_version": "7.2.4", "server": "valkey"},
)
HIDDEN = {"aof_enabled": 1, "maxmemory_policy": "noeviction"}
EVERYSEC = GOOD | {"appendfsync": "everysec"}

TABLE: list[tuple[str, dict[str, str] | None, dict[str, Any], Durability]] = [
    ("fsync always", GOOD, OLD, Durability()),
    ("fsync always on a newer one", GOOD, NEW, Durability()),
    ("everysec, WAITAOF", EVERYSEC, NEW, Durability(needs_wait_aof=True)),
    ("everysec, WAITAOF of Valkey", EVERYSEC, VALKEY, Durability(needs_wait_aof=True)),
    ("everysec, older", EVERYSEC, OLD, Durability(mistakes=("appendfsync is everysec, must be always",))),
    ("everysec, version unknown", EVERYSEC, {}, Durability(mistakes=("appendfsync is everysec, must be always",))),
    (
        "no fsync",
        GOOD | {"appendfsync": "no"},
        NEW,
        Durability(mistakes=("appendfsync is no, must be always",)),
    ),
    (
        "no append-only file",
        EVERYSEC | {"appendonly": "no"},
        NEW,
        Durability(mistakes=("appendonly is no, must be yes", "appendfsync is everysec, must be always")),
    ),
    (
        "evicts",
        EVERYSEC | {"maxmemory-policy": "allkeys-lru"},
        NEW,
        Durability(mistakes=("maxmemory-policy is allkeys-lru, must be noeviction",), needs_wait_aof=True),
    ),
    ("CONFIG hidden, WAITAOF proves it", None, NEW | HIDDEN, Durability(needs_wait_aof=True)),
    (
        "CONFIG hidden, older",
        None,
        OLD | HIDDEN,
        Durability(mistakes=("appendfsync cannot be checked (CONFIG is not allowed), must be always",)),
    ),
    (
        "CONFIG hidden, no append-only file",
        None,
        NEW | HIDDEN | {"aof_enabled": 0},
        Durability(
            mistakes=(
                "appendonly is no, must be yes",
                "appendfsync cannot be checked (CONFIG is not allowed), must be always",
            )
        ),
    ),
    (
        "CONFIG and INFO hidden",
        None,
        {},
        Durability(
            mistakes=(
                "appendonly cannot be checked (CONFIG is not allowed), must be yes",
                "appendfsync cannot be checked (CONFIG is not allowed), must be always",
                "maxmemory-policy cannot be checked (CONFIG is not allowed), must be noeviction",
            )
        ),
    ),
    (
        "settings unset",
        {},
        OLD,
        Durability(
            mistakes=(
                "appendonly is unset, must be yes",
                "appendfsync is unset, must be always",
                "maxmemory-policy is unset, must be noeviction",
            )
        ),
    ),
]


@pytest.mark.parametrize(("config", "info", "expected"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_each_kind_of_redis_is_judged(
    config: dict[str, str] | None, info: dict[str, Any], expected: Durability
) -> None:
    assert judge_durability(config, info) == expected
