"""What is done to the relay: a schedule of faults, drawn from a seed, at most one a component at a time."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sandbox.processes import ServerProcess, wait_until
from sandbox.stack import Role, Stack
from tests.soak.clients import Ledger

PLATFORM_SECONDS: Final = 30.0
"""Seconds between a platform's SIGTERM and its SIGKILL."""

GAP: Final = (0.5, 6.0)
"""Seconds between the beginnings of two faults."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One kind of trouble: what begins it, what ends it, whom it befalls."""

    name: str
    component: str
    seconds: tuple[float, float]
    """How long it lasts, at least and at most."""
    begin: Callable[[Troublemaker, random.Random], None]
    end: Callable[[Troublemaker], None] = lambda maker: None
    weight: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line of the schedule."""

    at: float
    """Seconds after the start."""
    is_end: bool
    fault: Fault
    seed: int


def kill_group(process: ServerProcess) -> None:
    """SIGKILL for a process and all that it started: each server of the sandbox leads a group of its own."""
    if process.is_running():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()


def children(process: ServerProcess) -> list[int]:
    found = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True, check=False
    )
    return [int(line) for line in found.stdout.split()]


class Troublemaker:
    """Does to one stack what the schedule says."""

    def __init__(self, stack: Stack, ledger: Ledger, records: Path) -> None:
        self.stack = stack
        self._ledger = ledger
        self._records = records
        self.left_open = 0
        """Idempotency keys that a kill of the API left unsettled."""
        self.redis_troubles = 0
        """Odd while Redis is in trouble."""
        self._restarts: list[threading.Thread] = []

    def kill_one(self, process: ServerProcess, chance: random.Random) -> None:
        if found := children(process):
            with contextlib.suppress(ProcessLookupError):
                os.kill(chance.choice(found), signal.SIGKILL)

    def kill_all(self, process: ServerProcess) -> None:
        for pid in children(process):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def restart(self, name: str) -> None:
        """SIGTERM and a new start, beside the rest of the schedule, which must not wait for it."""
        thread = threading.Thread(target=self._restart, args=(name,), name=f"restart {name}")
        self._restarts.append(thread)
        thread.start()

    def _restart(self, name: str) -> None:
        self.stop(name)
        self.start_role(name)

    def join_restarts(self) -> None:
        for thread in self._restarts:
            thread.join()

    def stop(self, name: str) -> None:
        """SIGTERM, as a platform says 30 s before it kills: it must end by itself, with 0 where Redis was well."""
        process = self.role(name).process
        # A process that has begun a moment ago is still being loaded, and ends as Python does at such a time.
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: process.is_running() and len(children(process)) >= 2, timeout=20, what="its children")
        troubled = self.redis_troubles
        code = process.stop(timeout=PLATFORM_SECONDS)
        redis_was_well = troubled == self.redis_troubles and troubled % 2 == 0
        if code != 0 and (redis_was_well or code != 1):
            self._ledger.violate(f"{name} ended with {code} after SIGTERM")

    def trouble_redis(self, act: Callable[[], object]) -> None:
        """Begin or end a trouble of Redis."""
        self.redis_troubles += 1
        act()

    def role(self, name: str) -> Role:
        return self.stack.ingress if name == "ingress" else self.stack.forwarder

    def start_role(self, name: str) -> None:
        role = self.role(name)
        if not role.process.is_running():
            role.process.start()

    def api_fault(self, chance: random.Random) -> None:
        scope = chance.choice(("send", "preflight", "all"))
        kind, more = chance.choice(
            (
                ("latency", {"seconds": chance.uniform(0.1, 3)}),
                ("hang", {"seconds": 30}),
                ("drop", {}),
                ("drop_after", {}),
                ("status", {"status": chance.choice((500, 502, 503, 504))}),
                ("status", {"status": 429, "retry_after": chance.choice((1, 2))}),
                ("status", {"status": 408}),
                ("status_after", {"status": 500}),
            )
        )
        if more.get("status") == 408 or kind == "status_after":
            # In a preflight a 408 is a refusal for good; and there is no work there after which to fail.
            scope = "send"
        self.stack.api.fail(kind, scope=scope, times=chance.choice((1, 5, 20, 60)), **more)

    def calm_api(self) -> None:
        """Faults that are left are forgotten; an API that is down has forgotten them itself."""
        with contextlib.suppress(OSError):
            self.stack.api.clear_faults()
            self.stack.api.options(rate_limit=False)

    def start_api(self) -> None:
        """Before it starts again, the API settles what its death left open: released where nothing was sent."""
        entries = read_records(self._records)
        unsettled = [slot for slot, status in entries.keys.items() if status is None]
        self.left_open += len(unsettled)
        with self._records.open("a", encoding="utf-8") as file:
            for project, key in unsettled:
                status = 200 if (project, key) in entries.sent_keys else 409
                file.write(json.dumps({"key": [project, key], "status": status}) + "\n")
        self.stack.api.start()


@dataclass(frozen=True, slots=True)
class Records:
    """The stand-in API's own file: every mail it sent, and what each idempotency key ended in."""

    mails: list[tuple[str, str]]
    """(subject, idempotency key)."""
    keys: dict[tuple[str, str], int | None]
    sent_keys: set[tuple[str, str]]


def read_records(path: Path) -> Records:
    mails: list[tuple[str, str]] = []
    keys: dict[tuple[str, str], int | None] = {}
    sent_keys: set[tuple[str, str]] = set()
    for line in path.read_text("utf-8").splitlines() if path.exists() else ():
        try:
            entry: dict[str, Any] = json.loads(line)
        except ValueError:
            continue  # the last line of a killed process
        if "mail" in entry:
            mail = entry["mail"]
            mails.append((mail["body"]["subject"], mail["idempotency_key"]))
            sent_keys.add((mail["project"], mail["idempotency_key"]))
        else:
            keys[tuple(entry["key"])] = entry["status"]
    return Records(mails, keys, sent_keys)


FAULTS: Final = (
    Fault(
        name="one forwarder worker killed",
        component="forwarder",
        seconds=(0, 0),
        begin=lambda m, r: m.kill_one(m.stack.forwarder.process, r),
        weight=5,
    ),
    Fault(
        name="all forwarder workers killed",
        component="forwarder",
        seconds=(0, 0),
        begin=lambda m, r: m.kill_all(m.stack.forwarder.process),
        weight=3,
    ),
    Fault(
        name="whole forwarder killed",
        component="forwarder",
        seconds=(0.5, 5),
        begin=lambda m, r: kill_group(m.stack.forwarder.process),
        end=lambda m: m.start_role("forwarder"),
        weight=3,
    ),
    Fault(
        name="forwarder restarted by SIGTERM",
        component="forwarder",
        seconds=(PLATFORM_SECONDS, PLATFORM_SECONDS),
        begin=lambda m, r: m.restart("forwarder"),
        weight=2,
    ),
    Fault(
        name="one ingress process killed",
        component="ingress",
        seconds=(0, 0),
        begin=lambda m, r: m.kill_one(m.stack.ingress.process, r),
        weight=4,
    ),
    Fault(
        name="whole ingress killed",
        component="ingress",
        seconds=(0, 3),
        begin=lambda m, r: kill_group(m.stack.ingress.process),
        end=lambda m: m.start_role("ingress"),
        weight=3,
    ),
    Fault(
        name="ingress restarted by SIGTERM",
        component="ingress",
        seconds=(PLATFORM_SECONDS, PLATFORM_SECONDS),
        begin=lambda m, r: m.restart("ingress"),
        weight=2,
    ),
    Fault(
        name="Redis killed",
        component="redis",
        seconds=(0, 4),
        begin=lambda m, r: m.trouble_redis(m.stack.redis.kill),
        end=lambda m: m.trouble_redis(m.stack.redis.start),
        weight=4,
    ),
    Fault(
        name="Redis stalled",
        component="redis",
        seconds=(0.5, 14),
        begin=lambda m, r: m.trouble_redis(m.stack.redis.process.pause),
        end=lambda m: m.trouble_redis(m.stack.redis.process.resume),
        weight=3,
    ),
    Fault(
        name="API killed",
        component="api",
        seconds=(0, 5),
        begin=lambda m, r: m.stack.api.process.kill(),
        end=lambda m: m.start_api(),
        weight=3,
    ),
    Fault(
        name="API stalled",
        component="api",
        seconds=(1, 15),
        begin=lambda m, r: m.stack.api.process.pause(),
        end=lambda m: m.stack.api.process.resume(),
        weight=2,
    ),
    Fault(
        name="API answers badly",
        component="api",
        seconds=(1, 8),
        begin=lambda m, r: m.api_fault(r),
        end=lambda m: m.calm_api(),
        weight=14,
    ),
    Fault(
        name="API limits the rate",
        component="api",
        seconds=(3, 10),
        begin=lambda m, r: m.stack.api.options(rate_limit=True),
        end=lambda m: m.calm_api(),
        weight=2,
    ),
    Fault(
        name="PostgreSQL killed",
        component="postgres",
        seconds=(0, 5),
        begin=lambda m, r: m.stack.postgres.kill(),
        end=lambda m: m.stack.postgres.start(),
        weight=3,
    ),
)


def schedule(seed: int, seconds: float) -> Iterator[Event]:
    """The events of a run, in order; faults that begin before ``seconds`` all end soon after."""
    chance = random.Random(seed)
    events: list[Event] = []
    busy: dict[str, float] = {}
    at = 2.0
    while at < seconds:
        free = [fault for fault in FAULTS if busy.get(fault.component, 0.0) < at]
        if free:
            fault = chance.choices(free, [one.weight for one in free])[0]
            until = at + chance.uniform(*fault.seconds)
            busy[fault.component] = until + 1.0
            one = chance.getrandbits(32)
            events.append(Event(at=at, is_end=False, fault=fault, seed=one))
            events.append(Event(at=until, is_end=True, fault=fault, seed=one))
        at += chance.uniform(*GAP)
    return iter(sorted(events, key=lambda event: event.at))
