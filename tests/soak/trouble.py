"""What is done to the relay: a schedule of faults, drawn from a seed, at most one a component at a time."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sandbox.processes import ServerProcess, wait_until
from sandbox.stack import Stack
from tests.soak.clients import Ledger

PLATFORM_SECONDS: Final = 30.0
"""Seconds between a platform's SIGTERM and its SIGKILL."""

GAP: Final = (0.5, 6.0)
"""Seconds between the beginnings of two faults."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of trouble: whom it befalls, what begins it, what ends it."""

    name: str
    component: str
    """The stack's name for it: ``begin`` and ``end`` are called with that."""
    seconds: tuple[float, float]
    """How long it lasts, at least and at most."""
    weight: int
    """How often it is drawn, as against the others."""
    begin: Callable[[Troublemaker, str, random.Random], None]
    end: Callable[[Troublemaker, str], None] = lambda maker, component: None


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

    def begin(self, fault: Fault, seed: int) -> None:
        if fault.component == "redis":
            self.redis_troubles += 1
        fault.begin(self, fault.component, random.Random(seed))

    def end(self, fault: Fault) -> None:
        if fault.component == "redis":
            self.redis_troubles += 1
        fault.end(self, fault.component)

    def process(self, component: str) -> ServerProcess:
        process: ServerProcess = getattr(self.stack, component).process
        return process

    def kill(self, component: str, _: random.Random) -> None:
        self.process(component).kill()

    def kill_group(self, component: str, _: random.Random) -> None:
        kill_group(self.process(component))

    def kill_one_child(self, component: str, chance: random.Random) -> None:
        if found := self.process(component).children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(chance.choice(found), signal.SIGKILL)

    def kill_children(self, component: str, _: random.Random) -> None:
        for pid in self.process(component).children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def pause(self, component: str, _: random.Random) -> None:
        self.process(component).pause()

    def resume(self, component: str) -> None:
        self.process(component).resume()

    def start_server(self, component: str) -> None:
        """Redis or PostgreSQL, and wait until it answers."""
        getattr(self.stack, component).start()

    def start_role(self, component: str) -> None:
        """Ingress or forwarder, unless it runs; not waited for."""
        process = self.process(component)
        if not process.is_running():
            process.start()

    def restart(self, component: str, _: random.Random) -> None:
        """SIGTERM and a new start, beside the rest of the schedule, which must not wait for it."""
        thread = threading.Thread(target=self._restart, args=(component,), name=f"restart {component}")
        self._restarts.append(thread)
        thread.start()

    def _restart(self, component: str) -> None:
        self.stop(component)
        self.start_role(component)

    def join_restarts(self) -> None:
        for thread in self._restarts:
            thread.join()

    def stop(self, component: str) -> None:
        """SIGTERM, as a platform says 30 s before it kills: it must end by itself, with 0 where Redis was well."""
        process = self.process(component)
        # A process that has begun a moment ago is still being loaded, and ends as Python does at such a time.
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: process.is_running() and len(process.children()) >= 2, timeout=20, what="its children")
        troubled = self.redis_troubles
        code = process.stop(timeout=PLATFORM_SECONDS)
        redis_was_well = troubled == self.redis_troubles and troubled % 2 == 0
        if code != 0 and (redis_was_well or code != 1):
            self._ledger.violate(f"{component} ended with {code} after SIGTERM")

    def let_api_fail(self, _: str, chance: random.Random) -> None:
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

    def limit_api(self, _component: str, _: random.Random) -> None:
        self.stack.api.options(rate_limit=True)

    def calm_api(self, _: str = "api") -> None:
        """Faults that are left are forgotten; an API that is down has forgotten them itself."""
        with contextlib.suppress(OSError):
            self.stack.api.clear_faults()
            self.stack.api.options(rate_limit=False)

    def start_api(self, _: str = "api") -> None:
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


AT_ONCE: Final = (0.0, 0.0)
STOPPING: Final = (PLATFORM_SECONDS, PLATFORM_SECONDS)

FAULTS: Final = (
    Fault("one forwarder worker killed", "forwarder", AT_ONCE, 5, Troublemaker.kill_one_child),
    Fault("all forwarder workers killed", "forwarder", AT_ONCE, 3, Troublemaker.kill_children),
    Fault("whole forwarder killed", "forwarder", (0.5, 5), 3, Troublemaker.kill_group, Troublemaker.start_role),
    Fault("forwarder restarted by SIGTERM", "forwarder", STOPPING, 2, Troublemaker.restart),
    Fault("one ingress process killed", "ingress", AT_ONCE, 4, Troublemaker.kill_one_child),
    Fault("whole ingress killed", "ingress", (0, 3), 3, Troublemaker.kill_group, Troublemaker.start_role),
    Fault("ingress restarted by SIGTERM", "ingress", STOPPING, 2, Troublemaker.restart),
    Fault("Redis killed", "redis", (0, 4), 4, Troublemaker.kill, Troublemaker.start_server),
    Fault("Redis stalled", "redis", (0.5, 14), 3, Troublemaker.pause, Troublemaker.resume),
    Fault("API killed", "api", (0, 5), 3, Troublemaker.kill, Troublemaker.start_api),
    Fault("API stalled", "api", (1, 15), 2, Troublemaker.pause, Troublemaker.resume),
    Fault("API answers badly", "api", (1, 8), 14, Troublemaker.let_api_fail, Troublemaker.calm_api),
    Fault("API limits the rate", "api", (3, 10), 2, Troublemaker.limit_api, Troublemaker.calm_api),
    Fault("PostgreSQL killed", "postgres", (0, 5), 3, Troublemaker.kill, Troublemaker.start_server),
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
