"""Functions of RQ jobs for tests, and, as a program, a worker that is killed at a chosen point."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import redis
from rq import Queue, SimpleWorker
from rq.worker import BaseWorker

from forwarder.worker import ForwarderWorker
from sandbox.stack import ROOT
from shared.message_store import JsonSerializer


def count(port: int, key: str) -> None:
    """Leave a trace."""
    with redis.Redis(port=port) as client:
        client.incr(key)


def fail() -> None:
    raise RuntimeError("as it was told to")


def die() -> None:
    """SIGKILL in the middle of a job."""
    os.kill(os.getpid(), signal.SIGKILL)


def stopped_twice(port: int, key: str) -> None:
    """Two requests to stop come while the job runs; it leaves a trace at its end."""
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(1.1)  # RQ takes a second signal within a second for an echo of the first.
    os.kill(os.getpid(), signal.SIGTERM)
    count(port, key)


def killed_worker(port: int, kind: str, point: str = "") -> None:
    """Runs a worker on the queue ``q`` until it is killed. ``kind``: stock, stock-two-queues, ours."""
    command = [sys.executable, "-m", "tests.support.rq_jobs", str(port), kind, point]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr


def _dying_after(function: Callable[..., Any]) -> Callable[..., Any]:
    def dies(*args: Any, **options: Any) -> None:
        function(*args, **options)
        die()

    return dies


def _dying_before(*_: Any, **__: Any) -> None:
    die()


def _main(port: int, kind: str, point: str) -> None:
    connection = redis.Redis(port=port)

    class Hooked(Queue):
        pass

    if point == "after the pop":
        Hooked.dequeue_any = classmethod(  # type: ignore[method-assign,assignment]
            lambda cls, *args, **options: _dying_after(Queue.dequeue_any)(*args, **options)
        )
    elif point == "with the maintenance lock":
        Hooked.acquire_maintenance_lock = _dying_after(Queue.acquire_maintenance_lock)  # type: ignore[method-assign]
    elif point == "before the retry is scheduled":
        Hooked.schedule_job = _dying_before  # type: ignore[method-assign,assignment]
    queues = [Hooked("q", connection=connection, serializer=JsonSerializer)]
    if kind == "stock-two-queues":
        queues.append(Hooked("other", connection=connection, serializer=JsonSerializer))
    worker: BaseWorker
    if kind == "ours":
        worker = ForwarderWorker(queues[0], connection=connection, queue_class=Hooked)
    else:
        worker = SimpleWorker(queues, connection=connection, serializer=JsonSerializer, queue_class=Hooked)
    worker.work(burst=True, logging_level="CRITICAL")


if __name__ == "__main__":
    _main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
