"""``python -m ingress``: the SMTP server process. ``--check`` looks at everything it needs and starts nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import Mapping
from typing import Final

import click
import redis
import uvloop
from prometheus_client.multiprocess import mark_process_dead

from ingress import heap
from ingress.certificates import CertificateError, CertificateStore
from ingress.checks import check_all
from ingress.limits import raise_file_limit, room_for_connections
from ingress.server import IngressServer, StartError
from shared.log import get_logger
from shared.probes import ProbeServer
from shared.redis_connection import connect, look_at_durability
from shared.settings import Settings
from shared.startup import begin
from shared.supervisor import CANNOT_START, Supervisor, has_parent, python_module

MULTIPROCESS_DIR: Final = "PROMETHEUS_MULTIPROC_DIR"
"""Where the ingress processes leave their metrics for the parent to add up."""

log = get_logger(__name__)


@click.command()
@click.option(
    "--check", is_flag=True, help="Check configuration, Redis, PostgreSQL, API and certificates; start nothing."
)
@click.option("--child", is_flag=True, hidden=True, help="One of several ingress processes: the parent has the probes.")
def main(check: bool, child: bool) -> None:
    """Accept mail by SMTP for Plunk and queue it."""
    settings = begin("ingress", only_check=check, check_all=check_all)
    if settings.ingress_processes > 1 and not child:
        sys.exit(supervise(settings))
    sys.exit(uvloop.run(serve(settings, is_child=child)))


def supervise(settings: Settings) -> int:
    """Run INGRESS_PROCESSES processes that share the ports; the exit code."""
    with tempfile.TemporaryDirectory(prefix="plunk-smtp-metrics-") as directory:
        supervisor = Supervisor(
            python_module("ingress", "--child"),
            count=settings.ingress_processes,
            stop_timeout=settings.shutdown_timeout + 3,
            environ={**os.environ, MULTIPROCESS_DIR: directory},
            # What a dead process had open is open no more.
            on_exit=lambda pid: mark_process_dead(pid, directory),  # type: ignore[no-untyped-call]
        )

        def readiness() -> Mapping[str, str]:
            checks = {check.name: "ok" if check.ok else check.detail for check in check_all(settings, quick=True)}
            alive = supervisor.alive
            checks["processes"] = "ok" if alive == settings.ingress_processes else f"{alive} run"
            return checks

        probes = (
            ProbeServer(settings.health_port, readiness=readiness, multiprocess_dir=directory)
            if settings.health_port
            else None
        )
        if probes:
            probes.start()
        try:
            return supervisor.run()
        finally:
            if probes:
                probes.stop()


async def serve(settings: Settings, *, is_child: bool) -> int:
    """Run one ingress process until SIGTERM or SIGINT; the exit code."""
    raise_file_limit()
    heap.set_up()
    if (room := room_for_connections()) < settings.max_connections:
        log.warning(f"MAX_CONNECTIONS is {settings.max_connections}, the limit of open files allows {room}: ulimit -n")
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)
    try:
        try:
            certificates = CertificateStore(settings)
        except CertificateError as error:
            raise StartError(f"CERT_PATH or ACME_JSON_PATH: {error}") from error
        if settings.require_tls and certificates.context is None:
            raise StartError("REQUIRE_TLS: no certificate was found in CERT_PATH or ACME_JSON_PATH")
        await loop.run_in_executor(None, demand_durability, settings)
        server = IngressServer(settings, certificates)
        await server.start()
    except StartError as error:
        click.echo(str(error), err=True)
        return CANNOT_START
    probes = None
    if settings.health_port and not is_child:

        def readiness() -> Mapping[str, str]:
            return asyncio.run_coroutine_threadsafe(server.readiness(), loop).result(timeout=8)

        probes = ProbeServer(settings.health_port, readiness=readiness)
        probes.start()
    watching = asyncio.create_task(_end_with_parent(stop)) if is_child else None
    await stop.wait()
    if watching:
        watching.cancel()
    log.info("SMTP server stopping")
    await server.stop()
    if probes:
        probes.stop()
    log.info("SMTP server stopped")
    return 0


async def _end_with_parent(stop: asyncio.Event) -> None:
    """A child whose parent was killed has nobody to stop it, and would share the ports with the next parent's."""
    while has_parent():  # noqa: ASYNC110 - no event tells of a parent's end
        await asyncio.sleep(1)
    stop.set()


def demand_durability(settings: Settings) -> None:
    """Warn when Redis may lose what it acknowledged; raises ``StartError`` under REQUIRE_DURABLE_REDIS."""
    connection = connect(settings.redis_url, connections=1)
    try:
        mistakes = list(look_at_durability(connection).mistakes)
    except redis.RedisError as error:
        mistakes = [f"Redis does not answer ({type(error).__name__}), so its durability cannot be checked"]
    finally:
        connection.close()
    for mistake in mistakes:
        log.warning(f"ACCEPTED MAIL CAN BE LOST: Redis {mistake}")
    if mistakes and settings.require_durable_redis:
        raise StartError("REQUIRE_DURABLE_REDIS: Redis may lose accepted mail: " + "; ".join(mistakes))


if __name__ == "__main__":
    main()
