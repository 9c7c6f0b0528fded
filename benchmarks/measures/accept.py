"""Durable accept: 2 KB messages a second with 20 connections, kept ones and a new one for each message."""

from __future__ import annotations

from dataclasses import dataclass, field

from benchmarks.load import Load
from benchmarks.peers.servers import Missing, Peer, Server, all_peers
from benchmarks.world import NullApi, Report, World, cpu_seconds, median, merged, run_loads, split

CONNECTIONS = 20
CLIENT_PROCESSES = 2
BOUNDS = ("plain aiosmtpd", "bare sink")
BOUND_RUNS = 2
"""What throws mail away only shows what is possible at all: two runs are enough for that."""

PATTERNS = {"kept connections": True, "a connection a message": False}


def measure(world: World) -> Report:
    report = Report()
    runs = Runs()
    peers = all_peers()
    with world.api() as api:
        for run in range(world.scale.runs):
            for peer in list(peers):
                if run >= BOUND_RUNS and peer.name in BOUNDS:
                    continue
                try:
                    _one_peer(world, api, peer, runs)
                except Missing as missing:
                    report.skipped.append(str(missing))
                    peers.remove(peer)
            world.say(f"  run {run + 1}: " + ", ".join(f"{k[0]} {v[-1]:.0f}" for k, v in runs.rates.items()))
    for (name, pattern), values in runs.rates.items():
        cpu = f"{median(runs.cpu[name, pattern]) * 1e6:.0f} µs CPU a message"
        report.row(f"Durable accept, {pattern}", name, "msg/s", values, cpu)
    for pattern in PATTERNS:
        ours = runs.rates["relay", pattern]
        for peer_name, least in (("node peer", 1.5), ("Postfix", 1.0)):
            report.ratio_target(
                f"Durable accept, {pattern}: ≥ {least} × the {peer_name}".replace("the Postfix", "Postfix"),
                ours,
                runs.rates.get((peer_name, pattern), []),
                least=least,
            )
    report.notes.append(
        "The node peer's 250 comes after the API's answer, the relay's and Postfix's after fsync; Postfix has no AUTH, "
        "no database and no preflight to do. Plain aiosmtpd and the bare sink do nothing with a message and run in one "
        f"process. Against the bare sink each of the {CLIENT_PROCESSES} client processes used "
        f"{max(runs.client_shares, default=0) * 100:.0f} % of a core at a rate many times that of any real server: the "
        "clients are not the bottleneck. The relay's CPU is the ingress processes' alone (not Redis, not PostgreSQL)."
    )
    return report


@dataclass(slots=True)
class Runs:
    """What all runs brought, by peer and pattern."""

    rates: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    cpu: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    client_shares: list[float] = field(default_factory=list)


def _one_peer(world: World, api: NullApi, peer: Peer, runs: Runs) -> None:
    with peer.run(world, api) as server:
        login = world.login if server.with_auth else {}
        warm_up(world, server)
        for pattern, kept in PATTERNS.items():
            window = world.window()
            load = Load(port=server.port, connections=CONNECTIONS, kept=kept, **window, **login)
            before = cpu_seconds(server.all_pids())
            done = merged(run_loads(*split(load, CLIENT_PROCESSES)))
            used = cpu_seconds(server.all_pids()) - before
            if done.failures:
                raise RuntimeError(f"{peer.name}: {done.failures[:3]}")
            runs.rates.setdefault((peer.name, pattern), []).append(done.accepted / world.scale.seconds)
            runs.cpu.setdefault((peer.name, pattern), []).append(used / max(1, done.total))
            if peer.name == "bare sink":
                runs.client_shares.append(done.cpu / world.scale.seconds / CLIENT_PROCESSES)


def warm_up(world: World, server: Server) -> None:
    """Some load that does not count: node compiles its hot paths, pools open their connections."""
    login = world.login if server.with_auth else {}
    window = world.window(seconds=2 * world.scale.warm_up, warm_up=0)
    run_loads(Load(port=server.port, connections=CONNECTIONS, **window, **login))
