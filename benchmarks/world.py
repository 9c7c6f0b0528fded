"""What the measures run in: databases, the null API, the peers and the load, each begun and ended here."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, cast

import requests
from redis import Redis

from benchmarks.load import Done, Load
from sandbox.postgres_server import PostgresServer
from sandbox.processes import ServerProcess, accepts_connections, free_port, wait_until
from sandbox.redis_server import RedisServer
from sandbox.stack import DEMO_DOMAIN, DEMO_PROJECT, DEMO_SECRET

ROOT: Final = Path(__file__).parents[1]
CORES: Final = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
QUEUE: Final = "plunk-smtp"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much is measured."""

    runs: int = 5
    seconds: float = 3.0
    """One window of one load."""
    warm_up: float = 1.0
    factor: float = 1.0
    """By which counts of messages, connections and bytes are multiplied."""
    endurance: int = 60_000
    """Messages over which growth is looked for."""
    load_start: float = 1.0
    """Seconds that a load process gets for starting and connecting before it warms up."""
    processes: int = CORES
    """Ingress processes where the whole machine is meant: Redis, PostgreSQL and the clients need the other cores."""
    workers: int = CORES
    """Forwarder workers where the whole machine is meant."""
    with_peers: bool = True
    """Whether other relays are measured too."""

    def count(self, full: int, *, least: int = 1) -> int:
        return max(least, int(full * self.factor))


FULL: Final = Scale()
QUICK: Final = Scale(runs=1, seconds=1.5, warm_up=0.5, factor=0.1, endurance=6_000)
TINY: Final = Scale(
    runs=1,
    seconds=0.2,
    warm_up=0.05,
    factor=0.002,
    endurance=60,
    load_start=0.6,
    processes=1,
    workers=1,
    with_peers=False,
)
"""For the test that the measures still run at all."""


class NullApi:
    """``benchmarks.null_api`` as a process."""

    def __init__(self, directory: Path, latency_ms: float) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process = ServerProcess(
            [sys.executable, "-m", "benchmarks.null_api", str(self.port), str(latency_ms)],
            log=directory / f"null_api_{self.port}.log",
            environ={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        self._session = requests.Session()
        self._session.trust_env = False

    def start(self) -> None:
        self.process.start()
        self.process.wait_ready(lambda: accepts_connections(self.port))

    def stop(self) -> None:
        self._session.close()
        self.process.stop(timeout=5)

    def reset(self) -> None:
        self._session.post(f"{self.url}/reset", timeout=30)

    def counts(self) -> dict[str, int]:
        found: dict[str, int] = self._session.get(f"{self.url}/counts", timeout=30).json()
        return found

    def answers(self) -> list[tuple[str, float]]:
        """Idempotency-Key and monotonic time of each answer to a real send."""
        found: list[tuple[str, float]] = self._session.get(f"{self.url}/answers", timeout=60).json()
        return found


@dataclass(slots=True, kw_only=True)
class World:
    """The servers that all measures share, and how the relay's own processes are started among them."""

    directory: Path
    scale: Scale
    redis: RedisServer
    postgres: PostgresServer
    say: Callable[[str], None] = print
    environ: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def api(self, *, latency_ms: float = 0) -> Iterator[NullApi]:
        api = NullApi(self.directory, latency_ms)
        api.start()
        try:
            yield api
        finally:
            api.stop()

    @contextmanager
    def role(self, name: str, api: NullApi, *args: str, **settings: str) -> Iterator[RunningRole]:
        """``ingress`` or ``forwarder`` with the settings' defaults, JSON logs to a file as in production."""
        port = free_port()
        environ = {
            "API_URI": api.url,
            "DATABASE_URL": self.postgres.url,
            "REDIS_URL": self.redis.url,
            "HOST": "127.0.0.1",
            "PORT_SUBMISSION": str(port),
            "PORT_SECURE": str(free_port()),
            "CERT_PATH": str(self.directory / "no-certificates"),
            "SMTP_DOMAIN": "bench.example",
            "LOG_FORMAT": "json",
            **self.environ,
            **settings,
        }
        log = self.directory / f"{name}_{port}.log"
        process = ServerProcess(
            [sys.executable, "-m", name, *args],
            log=log,
            environ={**os.environ, "PYTHONPATH": str(ROOT), **environ},
        )
        with self.client() as client:
            before = _workers(client)
        process.start()
        running = RunningRole(process=process, port=port)
        try:
            if name == "ingress":
                processes = int(environ.get("INGRESS_PROCESSES", "1"))
                ready = f"SMTP server listening on port {port}"
                process.wait_ready(lambda: log.read_text("utf-8", "replace").count(ready) >= processes)
            else:
                wanted = int(args[args.index("--workers") + 1])
                with self.client() as client:
                    process.wait_ready(lambda: len(_workers(client) - before) >= wanted)
            yield running
        finally:
            process.stop()
            log.unlink(missing_ok=True)

    def empty_redis(self) -> None:
        """Redis as it begins: no key, and nothing left of earlier loads in its append-only file either."""
        with self.redis.client() as client:
            client.flushall()
            rewrite_file(client)

    def client(self) -> Redis:
        return self.redis.client()

    @property
    def login(self) -> dict[str, Any]:
        return {"user": "plunk", "password": DEMO_SECRET}

    def window(self, *, seconds: float | None = None, warm_up: float | None = None) -> dict[str, Any]:
        """``begin`` and ``end`` of a load that starts now."""
        begin = time.monotonic() + self.scale.load_start + (self.scale.warm_up if warm_up is None else warm_up)
        return {"begin": begin, "end": begin + (self.scale.seconds if seconds is None else seconds)}


def rewrite_file(client: Redis) -> None:
    """Let Redis rewrite its append-only file, and all that is written reach the disk.

    Else what an earlier load has left would be rewritten, or written, in the midst of a measure of the next.
    """

    def wait() -> None:
        wait_until(lambda: not _rewrites(client), timeout=300, what="Redis to rewrite its file")

    # One that is under way would leave what came after its beginning.
    wait()
    client.bgrewriteaof()
    wait()
    os.sync()


def _rewrites(client: Redis) -> bool:
    info = client.info("persistence")
    return bool(info["aof_rewrite_in_progress"] or info["aof_rewrite_scheduled"])


def _workers(client: Redis) -> set[bytes]:
    """The RQ workers that are registered, those of killed processes included."""
    return cast("set[bytes]", client.smembers(f"rq:workers:{QUEUE}"))


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningRole:
    process: ServerProcess
    port: int

    def pids(self) -> list[int]:
        """The process and all its children."""
        return process_tree(self.process.pid)


@contextmanager
def make_world(scale: Scale, *, say: Callable[[str], None] = print) -> Iterator[World]:
    """Redis with production persistence (fsync before each answer) and PostgreSQL with the demo project."""
    directory = Path(tempfile.mkdtemp(prefix="plunk-smtp-bench-"))
    directory.chmod(0o755)
    redis_server, postgres = RedisServer(directory / "redis"), PostgresServer(directory / "postgres")
    try:
        redis_server.start()
        postgres.start()
        postgres.execute(
            f"INSERT INTO projects VALUES ('{DEMO_PROJECT}', 'Demo', 'pk_demo', '{DEMO_SECRET}', false);"
            f"INSERT INTO domains VALUES ('d', '{DEMO_PROJECT}', '{DEMO_DOMAIN}', true);"
        )
        yield World(directory=directory, scale=scale, redis=redis_server, postgres=postgres, say=say)
    finally:
        postgres.stop()
        redis_server.stop()
        shutil.rmtree(directory, ignore_errors=True)


def run_loads(*loads: Load) -> list[Done]:
    """Run loads at the same time, each in a process of its own."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.load", json.dumps(asdict(load))], stdout=subprocess.PIPE, env=environ
        )
        for load in loads
    ]
    try:
        outputs = [process.communicate(timeout=600)[0] for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
    return [Done(**json.loads(output)) for output in outputs]


def split(load: Load, processes: int) -> list[Load]:
    """One load spread over several client processes."""
    share = load.connections // processes
    extra = load.connections - share * processes
    return [
        replace(load, connections=share + (index < extra), rate=load.rate / processes)
        for index in range(min(processes, load.connections))
    ]


def merged(parts: Sequence[Done]) -> Done:
    whole = Done()
    for part in parts:
        whole.accepted += part.accepted
        whole.total += part.total
        whole.failures += part.failures
        whole.seconds += part.seconds
        whole.ids |= part.ids
        whole.cpu += part.cpu
        whole.connected += part.connected
        whole.last = max(whole.last, part.last)
    return whole


def process_tree(pid: int) -> list[int]:
    """``pid`` and its descendants, as /proc knows them."""
    found = [pid]
    for parent in found:
        try:
            text = Path(f"/proc/{parent}/task/{parent}/children").read_text("ascii")
        except OSError:
            continue
        found += [int(child) for child in text.split()]
    return found


def cpu_seconds(pids: Sequence[int]) -> float:
    """User and system CPU seconds that the processes have used so far."""
    ticks = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
        except OSError:
            continue
        # The last two are those of children that have ended.
        ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int, *, peak: bool = False) -> float:
    """Resident memory in MiB, now or at its highest."""
    name = "VmHWM:" if peak else "VmRSS:"
    for line in Path(f"/proc/{pid}/status").read_text("ascii").splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1024
    raise ValueError(f"no {name} of process {pid}")


def percentile(values: Sequence[float], share: float) -> float:
    """The value that ``share`` (0 to 1) of ``values`` do not pass; NaN without values."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measured thing. ``values`` has one value a run, in the order of the runs."""

    measure: str
    what: str
    unit: str
    values: tuple[float, ...]
    note: str = ""

    @property
    def median(self) -> float:
        return median(self.values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One target, with what was reached."""

    text: str
    reached: str
    met: bool | None
    """None: could not be judged here; ``reached`` says why."""


@dataclass(slots=True, kw_only=True)
class Report:
    """What one measure brings."""

    rows: list[Row] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def row(self, measure: str, what: str, unit: str, values: Sequence[float], note: str = "") -> Row:
        row = Row(measure=measure, what=what, unit=unit, values=tuple(values), note=note)
        self.rows.append(row)
        return row

    def ratio_target(self, text: str, ours: Sequence[float], peer: Sequence[float], *, least: float) -> None:
        """Judge the median of the ratios within each run."""
        # A run in which one of them finished nothing (NaN or 0) compares nothing.
        ratios = [a / b for a, b in zip(ours, peer, strict=False) if b and a == a and b == b]
        if not ratios:
            self.targets.append(Target(text=text, reached="the peer was not there, or finished nothing", met=None))
            return
        self.targets.append(Target(text=text, reached=f"{median(ratios):.2f} ×", met=median(ratios) >= least))


Measure = Callable[[World], Report]
Environ = Mapping[str, str]
