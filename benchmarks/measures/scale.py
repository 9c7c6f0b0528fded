"""Scale: rates with few and with many messages waiting, idle connections, two ingress processes beside one."""

from __future__ import annotations

import threading
import time

from benchmarks.backlog import fill, trim
from benchmarks.load import Done, Load
from benchmarks.measures.accept import CLIENT_PROCESSES, CONNECTIONS
from benchmarks.peers.servers import Relay
from benchmarks.world import (
    CORES,
    QUEUE,
    NullApi,
    Report,
    Target,
    World,
    median,
    merged,
    resident_mb,
    rewrite_file,
    run_loads,
    split,
)
from sandbox.processes import wait_until
from shared.message_store import MessageStore

FEW, MANY = 1_000, 1_000_000
TABLE_FULL = 2**20
"""Entries past which Redis doubles a table, and moves it a step at each command until it is through."""

WAITING_BYTES = 512
"""Size of the messages that wait, so that a million fit into a small machine's memory."""

WITHIN = 0.1
IDLE_CONNECTIONS = 5_000
IDLE_KB = 20.0
PROCESSES_RATIO = 1.7
CORES_WANTED = 4
"""Two ingress processes, Redis and the clients want a core each before two can be told from one."""


def measure(world: World) -> Report:
    report = Report()
    _waiting(world, report)
    _idle_connections(world, report)
    _processes(world, report)
    return report


def _waiting(world: World, report: Report) -> None:
    """Few, many, few again, so that a drift of the machine's own shows; each window begins with so many."""
    many = world.scale.count(MANY, least=2 * FEW)
    doubling: list[float] = []
    accepted: dict[int, list[float]] = {FEW: [], many: []}
    forwarded: dict[int, list[float]] = {FEW: [], many: []}
    windows = max(1, world.scale.runs // 2)
    with world.api() as api:
        for waiting in (FEW, many, FEW):
            world.empty_redis()
            with world.client() as client:
                # Filling is not what is measured: it need not wait for the disk at every step.
                client.config_set("appendfsync", "everysec")
                store = MessageStore(client, QUEUE)
                fill(store, waiting, size=WAITING_BYTES)
                rewrite_file(client)
                for _ in range(windows if waiting == FEW else 2 * windows):
                    client.config_set("appendfsync", "everysec")
                    trim(store, waiting)
                    client.config_set("appendfsync", "always")
                    accepted[waiting].append(_accept_rate(world, api))
                    forwarded[waiting].append(_forward_rate(world, api))
                if waiting == MANY:
                    fill(store, TABLE_FULL - waiting, size=WAITING_BYTES)
                    doubling += [_accept_rate(world, api) for _ in range(windows)]
            world.say(f"  {waiting:,} waiting: {accepted[waiting][-1]:.0f} in, {forwarded[waiting][-1]:.0f} out msg/s")
    world.empty_redis()
    if doubling:
        what = f"{TABLE_FULL:,} waiting: Redis doubles its tables"
        report.row("Rate of accept, kept connections", what, "msg/s", doubling, "passes by itself; not judged")
    for name, rates in (("accept, kept connections", accepted), ("forwarding, one worker", forwarded)):
        for waiting, values in rates.items():
            report.row(f"Rate of {name}", f"{waiting:,} waiting", "msg/s", values)
        ratio = median(rates[many]) / median(rates[FEW])
        report.targets.append(
            Target(
                text=f"Rate of {name} with {many:,} waiting within 10 % of that with {FEW:,}",
                reached=f"{ratio:.2f} ×",
                met=ratio >= 1 - WITHIN,
            )
        )


def _accept_rate(world: World, api: NullApi) -> float:
    with world.role("ingress", api, INGRESS_PROCESSES=str(world.scale.processes), QUEUE_MAX_MESSAGES="0") as ingress:
        load = Load(port=ingress.port, connections=CONNECTIONS, **world.window(), **world.login)
        done = merged(run_loads(*split(load, CLIENT_PROCESSES)))
    if done.failures:
        raise RuntimeError(f"scale: {done.failures[:3]}")
    return done.accepted / world.scale.seconds


def _forward_rate(world: World, api: NullApi) -> float:
    """Rate of one worker over a window after its first answers, however many wait."""
    api.reset()
    with world.role("forwarder", api, "--workers", "1"):
        wait_until(lambda: api.counts()["sent"] > 0, timeout=30, what="the first answer")
        begin = time.monotonic() + 0.2
        time.sleep(0.2 + min(1.0, world.scale.seconds))
        end = time.monotonic()
        times = [at for _, at in api.answers() if begin <= at < end]
    if len(times) < 2:
        return 0.0
    return (len(times) - 1) / (max(times) - min(times))


def _idle_connections(world: World, report: Report) -> None:
    count = world.scale.count(IDLE_CONNECTIONS, least=50)
    kilobytes: list[float] = []
    limits = {"MAX_CONNECTIONS": str(count + 100), "MAX_CONNECTIONS_PER_IP": str(count + 100)}
    with world.api() as api:
        for _ in range(max(1, world.scale.runs // 3)):
            world.empty_redis()
            with world.role("ingress", api, **limits) as ingress:
                hold = 2.0 + count / 700
                window = world.window(seconds=hold, warm_up=hold)
                load = Load(
                    port=ingress.port, connections=1, limit=1, **world.window(seconds=20, warm_up=0), **world.login
                )
                run_loads(load)
                before = resident_mb(ingress.process.pid)
                idle = Load(port=ingress.port, connections=count, rate=1e-6, **window, **world.login)
                found: list[Done] = []
                clients = threading.Thread(target=lambda: found.extend(run_loads(idle)))  # noqa: B023
                clients.start()
                time.sleep(max(0.0, window["begin"] + 1.0 - time.monotonic()))
                grown = resident_mb(ingress.process.pid) - before
                clients.join()
                if found[0].failures or found[0].connected != count:
                    raise RuntimeError(f"idle: {found[0].connected} of {count} connected, {found[0].failures[:3]}")
                kilobytes.append(grown * 1024 / count)
    reached = median(kilobytes)
    world.say(f"  {count:,} idle connections: {reached:.1f} KB each")
    report.row(f"{count:,} idle, authenticated connections", "ingress process", "KB each", kilobytes)
    report.targets.append(
        Target(
            text=f"{IDLE_CONNECTIONS:,} idle connections cost < {IDLE_KB:.0f} KB each",
            reached=f"{reached:.1f} KB each ({count:,} connections)",
            met=reached < IDLE_KB,
        )
    )


def _processes(world: World, report: Report) -> None:
    rates: dict[int, list[float]] = {1: [], 2: []}
    with world.api() as api:
        for run in range(world.scale.runs):
            for processes, values in rates.items():
                with Relay(processes).run(world, api) as server:
                    load = Load(port=server.port, connections=2 * CONNECTIONS, **world.window(), **world.login)
                    values.append(merged(run_loads(*split(load, CLIENT_PROCESSES))).accepted / world.scale.seconds)
            world.say(f"  run {run + 1}: one process {rates[1][-1]:.0f}, two {rates[2][-1]:.0f} msg/s")
    for processes, values in rates.items():
        report.row("Ingress processes, kept connections", f"{processes}", "msg/s", values)
    ratio = median([two / one for one, two in zip(rates[1], rates[2], strict=True)])
    enough = CORES >= CORES_WANTED
    report.targets.append(
        Target(
            text=f"Two ingress processes ≥ {PROCESSES_RATIO} × one, where cores allow",
            reached=f"{ratio:.2f} ×" + ("" if enough else f"; {CORES} cores, shared with Redis and the clients"),
            met=ratio >= PROCESSES_RATIO if enough or ratio >= PROCESSES_RATIO else None,
        )
    )
