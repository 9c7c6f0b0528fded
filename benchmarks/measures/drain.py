"""A backlog of 20,000 messages drained by workers on all cores, beside what the node peer passes on in the same run."""

from __future__ import annotations

from benchmarks.load import Load
from benchmarks.measures.accept import CLIENT_PROCESSES, CONNECTIONS, warm_up
from benchmarks.measures.forward import forwarding_rate
from benchmarks.peers.servers import Missing, NodePeer
from benchmarks.world import Report, World, merged, run_loads, split

BACKLOG = 20_000


def measure(world: World) -> Report:
    report = Report()
    backlog = world.scale.count(BACKLOG, least=100)
    ours: list[float] = []
    node: list[float] = []
    has_node = True
    with world.api() as api:
        for run in range(world.scale.runs):
            rate, _ = forwarding_rate(world, api, backlog, workers=world.scale.workers)
            ours.append(rate)
            if has_node:
                try:
                    with NodePeer().run(world, api) as server:
                        warm_up(world, server)
                        load = Load(port=server.port, connections=CONNECTIONS, **world.window(), **world.login)
                        done = merged(run_loads(*split(load, CLIENT_PROCESSES)))
                    node.append(done.accepted / world.scale.seconds)
                except Missing as missing:
                    has_node = False
                    report.skipped.append(str(missing))
            world.say(f"  run {run + 1}: relay {ours[-1]:.0f} msg/s" + (f", node peer {node[-1]:.0f}" if node else ""))
    report.row(f"Backlog of {backlog:,} drained", f"relay, {world.scale.workers} workers", "msg/s", ours)
    if node:
        report.row(f"Backlog of {backlog:,} drained", "node peer, as it accepts", "msg/s", node)
    report.ratio_target(f"Backlog of {backlog:,} drained at ≥ 1.0 × the node peer's rate", ours, node, least=1.0)
    return report
