"""Latency at 200 messages a second and an API of 50 ms: DATA → 250, and accepted → the API's 200."""

from __future__ import annotations

from dataclasses import dataclass, field

from benchmarks.load import Load
from benchmarks.world import Report, Target, World, median, percentile, run_loads
from sandbox.processes import wait_until

RATE = 200.0
API_MS = 50.0
SLACK_MS = 20.0
DELIVERED_MS = 250.0
WINDOWS = 3
"""Windows of the scale's length in one run."""


@dataclass(slots=True)
class Runs:
    reply: list[float] = field(default_factory=list)
    reply_median: list[float] = field(default_factory=list)
    delivered: list[float] = field(default_factory=list)
    delivered_median: list[float] = field(default_factory=list)


def measure(world: World) -> Report:
    report = Report()
    runs = Runs()
    with world.api(latency_ms=API_MS) as api:
        for run in range(world.scale.runs):
            world.empty_redis()
            api.reset()
            with (
                world.role("ingress", api, INGRESS_PROCESSES=str(world.scale.processes)) as ingress,
                world.role("forwarder", api, "--workers", str(world.scale.workers)),
            ):
                window = world.window(seconds=WINDOWS * world.scale.seconds)
                load = Load(port=ingress.port, connections=50, rate=RATE, **window, **world.login)
                (done,) = run_loads(load)
                if done.failures:
                    raise RuntimeError(f"latency: {done.failures[:3]}")
                wait_until(lambda: api.counts()["sent"] >= done.total, timeout=60, what="the last message")  # noqa: B023
                answered = dict(api.answers())
            begun = {key: at for key, at in done.ids.items() if window["begin"] <= at < window["end"]}
            delivered = [(answered[key] - at) * 1000 for key, at in begun.items()]
            reply = [seconds * 1000 for seconds in done.seconds]
            runs.reply.append(percentile(reply, 0.99))
            runs.reply_median.append(median(reply))
            runs.delivered.append(percentile(delivered, 0.99))
            runs.delivered_median.append(median(delivered))
            world.say(f"  run {run + 1}: DATA → 250 p99 {runs.reply[-1]:.1f} ms, → 200 p99 {runs.delivered[-1]:.1f} ms")
    report.row(f"At {RATE:.0f} msg/s, API of {API_MS:.0f} ms", "DATA → 250, median", "ms", runs.reply_median)
    report.row(f"At {RATE:.0f} msg/s, API of {API_MS:.0f} ms", "DATA → 250, p99", "ms", runs.reply)
    report.row(f"At {RATE:.0f} msg/s, API of {API_MS:.0f} ms", "250 → API's 200, median", "ms", runs.delivered_median)
    report.row(f"At {RATE:.0f} msg/s, API of {API_MS:.0f} ms", "250 → API's 200, p99", "ms", runs.delivered)
    reply_p99, delivered_p99 = median(runs.reply), median(runs.delivered)
    report.targets += [
        Target(
            text=f"p99 of DATA → 250 ≤ preflight ({API_MS:.0f} ms) + {SLACK_MS:.0f} ms",
            reached=f"{reply_p99:.1f} ms",
            met=reply_p99 <= API_MS + SLACK_MS,
        ),
        Target(
            text=f"p99 of accepted → API's 200 ≤ {DELIVERED_MS:.0f} ms",
            reached=f"{delivered_p99:.1f} ms",
            met=delivered_p99 <= DELIVERED_MS,
        ),
    ]
    return report
