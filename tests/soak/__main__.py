"""``make soak``: random faults under load by a seeded schedule; at the end the books must balance.

SOAK_SECONDS (1800), SOAK_SEED (drawn and printed), SOAK_CLIENTS (6), SOAK_DIR (.soak) for logs and results. Everything
runs on loopback and stops by itself. Exit code 0 when the books balance.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from sandbox.stack import DEMO_SECRET, ROOT, Stack
from shared.message_store import MessageStore
from tests.soak.clients import Client, Ledger
from tests.soak.trouble import Records, Troublemaker, kill_group, read_records, schedule

SETTLE_SECONDS: Final = 900.0
"""After the faults, at most so long until everything is delivered: the longest pause between two attempts."""

FORGOTTEN: Final = re.compile(
    r"never retrieved|was never awaited|Exception in callback|^Traceback \(most recent call last\)", re.MULTILINE
)
"""In the relay's own logs, a failure that nobody handled."""


def main() -> int:
    seconds = float(os.environ.get("SOAK_SECONDS") or 1800)
    seed = int(os.environ.get("SOAK_SEED") or random.SystemRandom().randrange(10**6))
    clients = int(os.environ.get("SOAK_CLIENTS") or 6)
    results = Path(os.environ.get("SOAK_DIR") or ROOT / ".soak")
    results.mkdir(parents=True, exist_ok=True)
    print(f"soak: {seconds:g} s, seed {seed}, {clients} clients; results in {results}", flush=True)
    with tempfile.TemporaryDirectory(prefix="plunk-smtp-soak-") as directory:
        soak = Soak(Path(directory), seconds=seconds, seed=seed, clients=clients)
        try:
            report = soak.run()
        finally:
            soak.end()
            for log in ("ingress.log", "forwarder.log"):
                path = Path(directory) / log
                (results / log).write_bytes(path.read_bytes() if path.exists() else b"")
    (results / "result.json").write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    text = markdown(report)
    (results / "result.md").write_text(text, "utf-8")
    print(text, flush=True)
    return 1 if report["violations"] else 0


class Soak:
    """One run."""

    def __init__(self, directory: Path, *, seconds: float, seed: int, clients: int) -> None:
        self.seconds, self.seed = seconds, seed
        self.stack = Stack(
            directory, tls=False, workers=2, INGRESS_PROCESSES="2", DEFER_TRANSIENT="true", DEDUPLICATE_SECONDS="86400"
        )
        self.ledger = Ledger()
        self.records = directory / "api" / "sent.jsonl"
        self.trouble = Troublemaker(self.stack, self.ledger, self.records)
        self.faults: Counter[str] = Counter()
        self.clients = [
            Client(f"c{number}", self.stack.port_submission, self.ledger, seed=f"{seed}/{number}", pause=0.2)
            for number in range(clients)
        ]

    def run(self) -> dict[str, Any]:
        started = time.monotonic()
        self.stack.start()
        for client in self.clients:
            client.start()
        begun = time.monotonic()
        for event in schedule(self.seed, self.seconds):
            self._wait(begun + event.at)
            if event.is_end:
                self.trouble.end(event.fault)
            else:
                self.faults[event.fault.name] += 1
                self.trouble.begin(event.fault, event.seed)
        self._wait(begun + self.seconds)
        self._end_of_faults()
        settled = self._settle()
        return self._balance(settled, time.monotonic() - started)

    def _wait(self, until: float) -> None:
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 30))
            if left > 30:
                print(f"  {len(self.ledger.promised)} promised, {sum(self.faults.values())} faults", flush=True)

    def _end_of_faults(self) -> None:
        self.trouble.join_restarts()
        self.trouble.calm_api()
        for name in ("ingress", "forwarder"):
            self.trouble.start_role(name)

    def _settle(self) -> bool:
        """Clients get rid of what they have, the relay too; whether all of it went within the time."""
        deadline = time.monotonic() + SETTLE_SECONDS
        for client in self.clients:
            client.deadline = deadline
            client.closing.set()
        while any(client.is_alive() for client in self.clients) or self.stack.queued():
            if time.monotonic() > deadline:
                return False
            time.sleep(1)
        return True

    def _balance(self, settled: bool, took: float) -> dict[str, Any]:
        wrong = self.ledger.violations
        if not settled:
            letters = sum(client.waiting for client in self.clients)
            wrong.append(f"{SETTLE_SECONDS:g} s after the last fault {letters} letters were not taken yet")
            wrong.append(f"and {self.stack.queued()} messages were not delivered yet")
        records = read_records(self.records)
        counts = self._compare(records)
        with self.stack.redis.client() as client:
            store = MessageStore(client, self.stack.queue_name)
            depth = store.depth()
            wrong += [f"verify: {line}" for line in store.verify().mistakes]
            if depth.dead:
                wrong.append(f"{depth.dead} dead letters, though the API refused nothing for good")
            self._look_for_secrets(b"".join((key + (client.dump(key) or b"")) for key in client.scan_iter()), "Redis")
        for path in (self.stack.directory / "redis").rglob("*"):
            if path.is_file():
                self._look_for_secrets(path.read_bytes(), f"redis/{path.name}")
        for name, role in (("ingress", self.stack.ingress), ("forwarder", self.stack.forwarder)):
            self.trouble.stop(name)
            text = role.output()
            self._look_for_secrets(text.encode(), f"the log of {name}")
            if found := Counter(match[0] for match in FORGOTTEN.finditer(text)):
                wrong.append(f"the log of {name} holds {dict(found)}")
            wrong += [f"the log of {name} tells of {what}" for what in sorted(set(logged_exceptions(text)))]
        return {
            "date": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
            "commit": commit(),
            "seconds": self.seconds,
            "took": round(took),
            "seed": self.seed,
            "clients": len(self.clients),
            "faults": dict(sorted(self.faults.items())),
            "client events": dict(sorted(self.ledger.events.items())),
            "keys left open by the API's death": self.trouble.left_open,
            **counts,
            "violations": wrong,
        }

    def _compare(self, records: Records) -> dict[str, int]:
        """Promises against mails, message by message."""
        keys_of: defaultdict[str, list[str]] = defaultdict(list)
        for subject, key in records.mails:
            keys_of[subject].append(key)
        spent = {key for (_, key), status in records.keys.items() if status is not None and status >= 500}
        lost = twice = allowed = 0
        for token, queued_id in self.ledger.promised.items():
            keys = keys_of.get(token, [])
            if not keys:
                lost += 1
                self.ledger.violations.append(f"{token} ({queued_id}) was promised and never sent")
                continue
            if {key.partition(".")[0] for key in keys} != {queued_id} or len(set(keys)) != len(keys):
                twice += 1
                self.ledger.violations.append(f"{token} ({queued_id}) was sent under {keys}")
            # A mail that went out and was answered 5xx: the contract allows, and ON_AMBIGUOUS=retry asks for, another.
            elif len(keys) > 1:
                if sum(key in spent for key in keys) < len(keys) - 1:
                    twice += 1
                    self.ledger.violations.append(f"{token} was sent under {keys}, of which {spent & set(keys)} failed")
                allowed += len(keys) - 1
        for token in keys_of.keys() - self.ledger.promised.keys():
            self.ledger.violations.append(f"{token} was sent and never promised")
        return {
            "given": len(self.ledger.given),
            "promised": len(self.ledger.promised),
            "unknown to the client for a while": len(self.ledger.unsure),
            "delivered": len(keys_of),
            "lost": lost,
            "twice": twice,
            "sent again after the API's own 5xx": allowed,
        }

    def _look_for_secrets(self, data: bytes, where: str) -> None:
        if DEMO_SECRET.encode() in data:
            self.ledger.violations.append(f"a secret lies in {where}")

    def end(self) -> None:
        """Whatever happened, nothing is left running."""
        for client in self.clients:
            client.deadline = 0.0
            client.closing.set()
        for process in (self.stack.redis.process, self.stack.postgres.process, self.stack.api.process):
            process.resume()
        self.trouble.join_restarts()
        for role in (self.stack.ingress, self.stack.forwarder):
            kill_group(role.process)
        self.stack.stop()


def logged_exceptions(text: str) -> Iterator[str]:
    """The last lines of the tracebacks in a JSON log: an outage has none."""
    for line in text.splitlines():
        if "Traceback (most recent call last)" in line:
            told = json.loads(line)
            yield str(told.get("exception", told["event"])).strip().rpartition("\n")[2]


def commit() -> str:
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "unknown"


def markdown(report: dict[str, Any]) -> str:
    """The result as it stands in docs/reliability.md."""
    lines = [
        f"{report['date']} UTC, commit {report['commit']}: {report['seconds']:g} s of faults, seed {report['seed']}, "
        f"{report['clients']} clients, {report['took']} s in all.",
        "",
        "| | |",
        "|---|---:|",
    ]
    for name in (
        "given",
        "promised",
        "unknown to the client for a while",
        "delivered",
        "lost",
        "twice",
        "sent again after the API's own 5xx",
        "keys left open by the API's death",
    ):
        lines.append(f"| {name[0].upper()}{name[1:]} | {report[name]} |")
    lines += ["", "| Fault | Times |", "|---|---:|", *(f"| {name} | {n} |" for name, n in report["faults"].items())]
    lines += ["", "| What clients saw | Times |", "|---|---:|"]
    lines += [f"| {name} | {n} |" for name, n in report["client events"].items()]
    lines += ["", "The books balance." if not report["violations"] else "**THE BOOKS DO NOT BALANCE**"]
    lines += [f"* {line}" for line in report["violations"][:50]]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    sys.exit(main())
