"""Forwarding: messages a second that one worker process brings to an API of 0 ms and of 50 ms."""

from __future__ import annotations

from benchmarks.backlog import fill
from benchmarks.world import QUEUE, NullApi, Report, Target, World, cpu_seconds, median
from sandbox.processes import wait_until
from shared.message_store import MessageStore
from shared.settings import Settings

SLOW_MS = 50.0
LEAST_RATE = 800.0
LEAST_SHARE = 0.9
BACKLOGS = {0.0: 8000, SLOW_MS: 2500}
"""API latency in ms → messages."""


def measure(world: World) -> Report:
    report = Report()
    rates: dict[float, list[float]] = {latency: [] for latency in BACKLOGS}
    cpu: dict[float, list[float]] = {latency: [] for latency in BACKLOGS}
    for run in range(world.scale.runs):
        for latency, backlog in BACKLOGS.items():
            with world.api(latency_ms=latency) as api:
                rate, used = forwarding_rate(world, api, world.scale.count(backlog, least=50), workers=1)
            rates[latency].append(rate)
            cpu[latency].append(used)
        world.say(f"  run {run + 1}: " + ", ".join(f"{ms:.0f} ms: {v[-1]:.0f} msg/s" for ms, v in rates.items()))
    for latency, values in rates.items():
        note = f"{median(cpu[latency]) * 1e6:.0f} µs CPU a message"
        report.row("Forwarding, one worker", f"API of {latency:.0f} ms", "msg/s", values, note)
    concurrency = Settings().forward_concurrency
    most = concurrency / SLOW_MS * 1000
    fast, slow = median(rates[0.0]), median(rates[SLOW_MS])
    report.targets += [
        Target(
            text=f"Forwarding with an API of 0 ms: ≥ {LEAST_RATE:.0f} msg/s a worker",
            reached=f"{fast:.0f} msg/s",
            met=fast >= LEAST_RATE,
        ),
        Target(
            text=f"With an API of {SLOW_MS:.0f} ms: ≥ 90 % of FORWARD_CONCURRENCY / latency ({most:.0f} msg/s)",
            reached=f"{slow:.0f} msg/s, {slow / most * 100:.1f} %",
            met=slow >= LEAST_SHARE * most,
        ),
    ]
    return report


def forwarding_rate(world: World, api: NullApi, count: int, *, workers: int) -> tuple[float, float]:
    """Messages a second from the first to the last answer of the API over a backlog, and CPU seconds a message."""
    world.empty_redis()
    api.reset()
    with world.client() as client:
        fill(MessageStore(client, QUEUE), count)
    with world.role("forwarder", api, "--workers", str(workers)) as forwarder:
        wait_until(lambda: api.counts()["sent"] >= count, timeout=300, what="the backlog's end", poll=0.05)
        times = sorted(at for _, at in api.answers())
        cpu = cpu_seconds(forwarder.pids())
    if len(times) != count:
        raise RuntimeError(f"{count} messages, {len(times)} calls")
    return (count - 1) / (times[-1] - times[0]), cpu / count
