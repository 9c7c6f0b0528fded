"""Memory: idle processes, many large uploads at once, and whether it grows with the messages that went through."""

from __future__ import annotations

import time

from benchmarks.load import Load
from benchmarks.messages import LARGE_BYTES
from benchmarks.world import Report, Target, World, median, resident_mb, run_loads
from sandbox.processes import wait_until
from shared.settings import Settings

IDLE_MB = 60.0
UPLOADS = 50
SAMPLES = 10
ENDURANCE = 500_000
"""Messages for which growth is stated."""

GROWTH_MB = 10.0
"""What counts as none over so many messages."""


def measure(world: World) -> Report:
    report = Report()
    _idle(world, report)
    _uploads(world, report)
    _growth(world, report)
    return report


def _idle(world: World, report: Report) -> None:
    ingress_mb: list[float] = []
    worker_mb: list[float] = []
    with world.api() as api:
        for _ in range(world.scale.runs):
            world.empty_redis()
            with world.role("ingress", api) as ingress, world.role("forwarder", api, "--workers", "1") as forwarder:
                wait_until(lambda: len(forwarder.pids()) > 1, timeout=30, what="the worker")
                # One message, so that all is loaded that ever will be.
                load = Load(
                    port=ingress.port, connections=1, limit=1, **world.window(seconds=20, warm_up=0), **world.login
                )
                run_loads(load)
                wait_until(lambda: api.counts()["sent"] > 0, timeout=30, what="the message")
                ingress_mb.append(resident_mb(ingress.process.pid))
                worker_mb.append(resident_mb(forwarder.pids()[1]))
                api.reset()
    world.say(f"  idle: ingress {median(ingress_mb):.1f} MB, worker {median(worker_mb):.1f} MB")
    for name, values in (("ingress process", ingress_mb), ("forwarder worker", worker_mb)):
        report.row("Resident memory, idle after one message", name, "MiB", values)
        reached = median(values)
        report.targets.append(
            Target(text=f"Idle {name} ≤ {IDLE_MB:.0f} MB", reached=f"{reached:.1f} MB", met=reached <= IDLE_MB)
        )


def _uploads(world: World, report: Report) -> None:
    uploads = world.scale.count(UPLOADS, least=5)
    size = LARGE_BYTES if world.scale.factor >= 0.1 else 100_000
    budget = Settings().ingress_memory_mb
    grown: list[float] = []
    taken: list[int] = []
    with world.api() as api:
        for _ in range(world.scale.runs):
            world.empty_redis()
            with world.role("ingress", api) as ingress:
                before = resident_mb(ingress.process.pid)
                window = world.window(seconds=60, warm_up=0)
                load = Load(
                    port=ingress.port,
                    connections=uploads,
                    message="large",
                    size=size,
                    once=True,
                    **window,
                    **world.login,
                )
                (done,) = run_loads(load)
                if done.total + len(done.failures) < uploads or any("452" not in f[:4] for f in done.failures):
                    raise RuntimeError(f"uploads: {done.total} accepted, {done.failures[:3]}")
                grown.append(resident_mb(ingress.process.pid, peak=True) - before)
                taken.append(done.total)
    reached = median(grown)
    note = f"{median(taken):.0f} accepted, the others 452"
    world.say(f"  {uploads} uploads: {reached:.0f} MB, {note}")
    report.row(f"{uploads} uploads of {size / 1e6:.0f} MB at once", "peak over idle", "MiB", grown, note)
    report.targets.append(
        Target(
            text=f"{uploads} uploads of 10 MB at once stay within INGRESS_MEMORY_MB ({budget:.0f} MiB)",
            reached=f"{reached:.0f} MiB over idle; {note}",
            met=reached <= budget,
        )
    )


def _growth(world: World, report: Report) -> None:
    count = world.scale.endurance
    samples = min(SAMPLES, max(3, count // 20))
    ingress_mb: list[float] = []
    worker_mb: list[float] = []
    with world.api() as api:
        world.empty_redis()
        with world.role("ingress", api) as ingress, world.role("forwarder", api, "--workers", "1") as forwarder:
            sent = 0
            for _ in range(samples):
                share = count // samples
                load = Load(port=ingress.port, limit=share, **world.window(seconds=600, warm_up=0), **world.login)
                (done,) = run_loads(load)
                sent += done.total
                wait_until(lambda: api.counts()["sent"] >= sent, timeout=300, what="the messages' end", poll=0.1)  # noqa: B023
                time.sleep(0.2)
                ingress_mb.append(resident_mb(ingress.process.pid))
                worker_mb.append(resident_mb(forwarder.pids()[1]))
    for name, values in (("ingress process", ingress_mb), ("forwarder worker", worker_mb)):
        # The first half fills caches and arenas; what comes after is growth.
        settled = values[samples // 2 :]
        slope = _slope(settled) / (count / samples) * ENDURANCE
        note = f"{slope:+.1f} MB over {ENDURANCE:,} messages by the slope of the second half"
        world.say(f"  {name}: {values[0]:.1f} … {values[-1]:.1f} MB, {note}")
        report.row(f"Resident memory over {count:,} messages", name, "MiB", values, note)
        judged = count >= 20_000
        report.targets.append(
            Target(
                text=f"{name.capitalize()}: no growth over {ENDURANCE:,} messages (< {GROWTH_MB:.0f} MB)",
                reached=f"{slope:+.1f} MB, from {count:,} messages" + ("" if judged else ": too few to judge by"),
                met=slope < GROWTH_MB if judged else None,
            )
        )


def _slope(values: list[float]) -> float:
    """Least-squares slope a sample."""
    middle_x, middle_y = (len(values) - 1) / 2, sum(values) / len(values)
    above = sum((x - middle_x) * (y - middle_y) for x, y in enumerate(values))
    return above / sum((x - middle_x) ** 2 for x in range(len(values)))
