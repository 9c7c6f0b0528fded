"""``python -m forwarder``: the RQ workers that forward queued mail, and the commands over the queue."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

import click
import orjson
import redis

from forwarder.batch import BatchForwarder, install
from forwarder.dead_letters import DeadLetterAftermath, describe
from forwarder.housekeeping import Housekeeping
from forwarder.secrets import Secrets
from forwarder.sender import Sender
from forwarder.webhook import Webhook
from forwarder.worker import ForwarderWorker, run_for_ever
from shared.checks import Check, check_api, check_database, check_redis
from shared.log import get_logger
from shared.message_store import MessageStore
from shared.metrics import QueueCollector
from shared.plunk_api import PlunkApi
from shared.probes import ProbeServer
from shared.queued_message import CodecError, State, StoredMessage
from shared.redis_connection import connect
from shared.settings import Settings
from shared.startup import begin
from shared.supervisor import Supervisor, has_parent, python_module

LIST_CHUNK: Final = 500
"""Dead letters read at once."""

log = get_logger(__name__)


@click.group(invoke_without_command=True)
@click.option("--workers", default=1, type=click.IntRange(1, 64), show_default=True, help="Worker processes.")
@click.option("--check", is_flag=True, help="Check configuration, Redis, PostgreSQL and API; start nothing.")
@click.pass_context
def main(context: click.Context, workers: int, check: bool) -> None:
    """Forward queued mail to Plunk; without a command, run the workers."""
    context.obj = settings = begin("forwarder", only_check=check, check_all=check_all)
    if context.invoked_subcommand is None:
        sys.exit(run(settings, workers))


def check_all(settings: Settings) -> list[Check]:
    """Every check of the forwarder, in the order of a message's way."""
    return [check_redis(settings), check_database(settings), check_api(settings)]


def run(settings: Settings, workers: int) -> int:
    """Keep ``workers`` worker processes running, with probes and housekeeping beside them; the exit code."""
    connection = connect(settings.redis_url, connections=8)
    store = MessageStore(connection, settings.queue_name)
    webhook = (
        Webhook(store, url=settings.dead_letter_webhook, secret=settings.dead_letter_webhook_secret)
        if settings.dead_letter_webhook
        else None
    )
    housekeeping = Housekeeping(store, batch_size=settings.batch_size, chores=[webhook.tick] if webhook else [])
    with tempfile.TemporaryDirectory(prefix="plunk-smtp-metrics-") as directory:
        supervisor = Supervisor(
            python_module("forwarder", "worker"),
            count=workers,
            stop_timeout=settings.shutdown_timeout,
            environ={**os.environ, "PROMETHEUS_MULTIPROC_DIR": directory},
        )

        def readiness() -> Mapping[str, str]:
            checks = {c.name: "ok" if c.ok else c.detail for c in (check_redis(settings), check_database(settings))}
            alive = supervisor.alive
            checks["workers"] = "ok" if alive == workers else f"{alive} of {workers} run"
            return checks

        probes = None
        if settings.health_port:
            probes = ProbeServer(
                settings.health_port,
                readiness=readiness,
                collectors=[QueueCollector(housekeeping.gauges)],
                multiprocess_dir=directory,
            )
            probes.start()
        supervisor.heed_signals()
        housekeeping.start()
        log.info("Forwarder started", workers=workers, api=settings.api_uri)
        try:
            return supervisor.run()
        finally:
            housekeeping.stop()
            if probes:
                probes.stop()
            log.info("Forwarder stopped")


@main.command(hidden=True)
@click.pass_obj
def worker(settings: Settings) -> None:
    """One worker process: started by the parent."""
    connection = connect(settings.redis_url, connections=settings.forward_concurrency + 8)
    store = MessageStore(connection, settings.queue_name)
    stop = threading.Event()
    install(
        BatchForwarder(
            store,
            Sender(
                PlunkApi(settings.api_uri, connections=settings.forward_concurrency),
                Secrets(settings.database_url),
                timeout=settings.forward_timeout,
                on_ambiguous=settings.on_ambiguous,
            ),
            batch_size=settings.batch_size,
            concurrency=settings.forward_concurrency,
            lifetime=settings.message_lifetime,
            aftermath=DeadLetterAftermath(
                with_event=bool(settings.dead_letter_webhook),
                with_notice=settings.bounce_notices,
                reporting_mta=settings.smtp_domain or socket.getfqdn(),
            ),
            is_stopping=stop.is_set,
        )
    )
    threading.Thread(target=_end_with_parent, args=(stop,), daemon=True).start()
    run_for_ever(store.queue, stop)


def _end_with_parent(stop: threading.Event) -> None:
    """A worker whose parent was killed has nobody to stop it: it ends by itself between two jobs."""
    while has_parent():
        time.sleep(1)
    stop.set()


def _store(settings: Settings) -> MessageStore:
    return MessageStore(connect(settings.redis_url, connections=2), settings.queue_name)


@main.command()
@click.option("--verify", is_flag=True, help="Walk the whole store and prove that every message is in one place.")
@click.pass_obj
def status(settings: Settings, verify: bool) -> None:
    """Show queue depth, oldest message, workers and dead letters."""
    store = _store(settings)
    try:
        depth = store.depth()
        workers = ForwarderWorker.count(queue=store.queue)
        oldest = "none" if depth.oldest_accepted_at is None else f"{time.time() - depth.oldest_accepted_at:.0f} s old"
        click.echo(f"waiting       {depth.waiting}")
        click.echo(f"being sent    {depth.sending}")
        click.echo(f"retries       {depth.retries}")
        click.echo(f"oldest        {oldest}")
        click.echo(f"workers       {workers}")
        click.echo(f"dead letters  {depth.dead}")
        if verify:
            audit = store.verify()
            for mistake in audit.mistakes:
                click.echo(mistake, err=True)
            total = sum(audit.counts.values())
            found = f"{total} messages, every one in exactly one place" if not audit.mistakes else "FAILED"
            click.echo(f"verified      {found}")
            sys.exit(1 if audit.mistakes else 0)
    except redis.RedisError as error:
        raise click.ClickException(f"Redis does not answer: {type(error).__name__}") from error


@main.group()
def failed() -> None:
    """Look at dead letters, retry or discard them."""


def _chosen_by(command: Any) -> Any:
    for option in (
        click.option("--reason", default="", help="Only those whose last answer holds this text."),
        click.option("--project", default="", help="Only this project's, by id."),
    ):
        command = option(command)
    return command


@failed.command("list")
@_chosen_by
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.pass_obj
def failed_list(settings: Settings, project: str, reason: str, as_json: bool) -> None:
    """One line a dead letter: id, time of death, project, sender, recipients, attempts, the API's words."""
    for stored in _dead(_store(settings)):
        if not _matches(stored, project=project, reason=reason):
            continue
        told = describe(stored)
        if as_json:
            click.echo(orjson.dumps(told).decode())
            continue
        click.echo(
            f"{told['id']}  {told['died_at'] or told['last_attempt_at']}  {told['project']}  "
            f"{told['from']} → {', '.join(told['to'])}  {_times(stored.attempts)}  {_words(stored, with_code=False)}"
        )


@failed.command("show")
@click.argument("message_id")
@click.option("--json", "as_json", is_flag=True, help='One JSON object; the API\'s call under "body".')
@click.pass_obj
def failed_show(settings: Settings, message_id: str, as_json: bool) -> None:
    """The whole dead letter, as the API would get it."""
    (stored,) = _store(settings).load([message_id])
    if isinstance(stored, CodecError):
        raise click.ClickException(str(stored))
    if stored is None or stored.state is not State.DEAD:
        raise click.ClickException(f"no dead letter has the id {message_id}")
    told = describe(stored)
    if as_json:
        click.echo(orjson.dumps(told | {"body": orjson.loads(stored.message.call)}).decode())
        return
    click.echo(f"id             {told['id']}")
    click.echo(f"project        {told['project']}")
    click.echo(f"from           {told['from']} (envelope {told['envelope_from'] or '<>'})")
    click.echo(f"to             {', '.join(told['to'])}")
    click.echo(f"subject        {told['subject']}")
    click.echo(f"accepted       {told['accepted_at']}")
    click.echo(f"first attempt  {told['first_attempt_at'] or '-'}")
    click.echo(f"last attempt   {told['last_attempt_at'] or '-'}")
    click.echo(f"died           {told['died_at'] or '-'}")
    click.echo(f"attempts       {told['attempts']}")
    click.echo(f"answer         {_words(stored)}")
    click.echo(stored.message.call.decode("utf-8", "replace"))


def _words(stored: StoredMessage, *, with_code: bool = True) -> str:
    """The API's last words: status, code and message."""
    answer = stored.last_answer or {}
    names = ("status", "code", "message") if with_code else ("status", "message")
    return " ".join(str(answer[name]) for name in names if answer.get(name)) or "-"


def _times(attempts: int) -> str:
    return "1 attempt" if attempts == 1 else f"{attempts} attempts"


def _matches(stored: StoredMessage, *, project: str, reason: str) -> bool:
    return (not project or stored.message.project_id == project) and reason.lower() in _words(stored).lower()


def _selection(command: Any) -> Any:
    for option in (
        click.option("--all", "everything", is_flag=True, help="All that the other options leave."),
        click.argument("message_ids", nargs=-1),
    ):
        command = option(command)
    return _chosen_by(command)


@failed.command("retry")
@_selection
@click.pass_obj
def failed_retry(settings: Settings, message_ids: tuple[str, ...], everything: bool, project: str, reason: str) -> None:
    """Queue dead letters again."""
    store = _store(settings)
    chosen = _chosen(store, message_ids, everything=everything, project=project, reason=reason)
    click.echo(f"{store.requeue(chosen)} queued again")


@failed.command("discard")
@_selection
@click.pass_obj
def failed_discard(
    settings: Settings, message_ids: tuple[str, ...], everything: bool, project: str, reason: str
) -> None:
    """Delete dead letters for good."""
    store = _store(settings)
    chosen = _chosen(store, message_ids, everything=everything, project=project, reason=reason)
    store.delete(chosen)
    click.echo(f"{len(chosen)} discarded")


def _chosen(
    store: MessageStore, message_ids: tuple[str, ...], *, everything: bool, project: str, reason: str
) -> list[str]:
    if not message_ids and not everything:
        raise click.UsageError("name message ids, or --all")
    return [
        stored.message.id
        for stored in _dead(store)
        if (everything or stored.message.id in message_ids) and _matches(stored, project=project, reason=reason)
    ]


def _dead(store: MessageStore) -> Iterator[StoredMessage]:
    """Every dead letter, the oldest first, without its body."""
    ids = store.dead_ids()
    for start in range(0, len(ids), LIST_CHUNK):
        for stored in store.load(ids[start : start + LIST_CHUNK], with_body=False):
            if isinstance(stored, CodecError):
                click.echo(str(stored), err=True)
            elif stored is not None:
                yield stored


if __name__ == "__main__":
    main()
