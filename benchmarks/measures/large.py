"""A 10 MB message: how long it takes, and what the other sessions of the same process feel of it."""

from __future__ import annotations

import os

from benchmarks.load import Load
from benchmarks.messages import LARGE_BYTES
from benchmarks.peers.servers import Missing, NodePeer, Peer, Postfix, Relay
from benchmarks.world import NullApi, Report, Target, World, median, merged, percentile, run_loads

OTHERS_RATE = 50.0
OTHERS = 10
MAX_GROWTH_MS = 20.0


def measure(world: World) -> Report:
    report = Report()
    times: dict[str, list[float]] = {}
    alone: dict[str, list[float]] = {}
    beside: dict[str, list[float]] = {}
    # One ingress process, so that the other sessions share their event loop with the large message.
    peers: list[Peer] = [Relay(processes=1), NodePeer(), Postfix()]
    with world.api() as api:
        for run in range(world.scale.runs):
            for peer in list(peers):
                try:
                    seconds, p99_alone, p99_beside = _one(world, api, peer)
                except Missing as missing:
                    report.skipped.append(str(missing))
                    peers.remove(peer)
                    continue
                times.setdefault(peer.name, []).append(seconds * 1000)
                alone.setdefault(peer.name, []).append(p99_alone * 1000)
                beside.setdefault(peer.name, []).append(p99_beside * 1000)
            world.say(f"  run {run + 1}: " + ", ".join(f"{k} {v[-1]:.0f} ms" for k, v in times.items()))
    for name, values in times.items():
        report.row("10 MB message, from its first byte to its 250", name, "ms", values)
    for name, values in beside.items():
        note = f"{median(alone[name]):.1f} ms without the 10 MB messages"
        report.row("p99 of the others' DATA → 250 meanwhile", name, "ms", values, note)
    report.ratio_target(
        "10 MB message: node peer's time ≥ 5 × the relay's", times.get("node peer", []), times["relay"], least=5.0
    )
    grown = median([b - a for a, b in zip(alone["relay"], beside["relay"], strict=True)])
    report.targets.append(
        Target(
            text=f"Others' p99 during a 10 MB message grows by < {MAX_GROWTH_MS:.0f} ms",
            reached=f"{grown:+.1f} ms",
            met=grown < MAX_GROWTH_MS,
        )
    )
    return report


def _one(world: World, api: NullApi, peer: Peer) -> tuple[float, float, float]:
    """Seconds of a large message (median), the others' p99 alone and beside it."""
    size = world.scale.count(LARGE_BYTES, least=100_000) if world.scale.factor < 0.1 else LARGE_BYTES
    # What the one before has left unwritten is not this one's burden.
    os.sync()
    with peer.run(world, api) as server:
        login = world.login if server.with_auth else {}
        others = {"port": server.port, "connections": OTHERS, "rate": OTHERS_RATE, **login}
        run_loads(Load(**others, **world.window(warm_up=0)))
        quiet = merged(run_loads(Load(**others, **world.window())))
        window = world.window()
        busy, big = run_loads(
            Load(**others, **window),
            Load(port=server.port, connections=1, message="large", size=size, **window, **login),
        )
        failures = quiet.failures + busy.failures + big.failures
        if failures:
            raise RuntimeError(f"{peer.name}: {failures[:3]}")
        return median(big.seconds), percentile(quiet.seconds, 0.99), percentile(busy.seconds, 0.99)
