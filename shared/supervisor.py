"""A parent that keeps N child processes running: one command each, restarted when they die, stopped together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from shared.log import get_logger

FIRST_BACKOFF: Final = 0.5
LONGEST_BACKOFF: Final = 30.0
"""Seconds before a child that died is started again; doubled each time it dies within ``HEALTHY_AFTER`` seconds."""

HEALTHY_AFTER: Final = 30.0
CHECK_SECONDS: Final = 0.2

PARENT_PID: Final = "PLUNK_SMTP_PARENT_PID"
"""Variable that tells a child its parent. The system may already name who adopted the child: a parent can be killed
before its child has come so far as to ask."""

CANNOT_START: Final = 78
"""Exit code (EX_CONFIG) of a child whose configuration is wrong: starting it again would not help."""

log = get_logger(__name__)


class Supervisor:
    """Runs ``count`` copies of ``command`` until SIGTERM or SIGINT; ``run`` returns the exit code."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        count: int,
        stop_timeout: float,
        environ: Mapping[str, str] | None = None,
        on_exit: Callable[[int], None] = lambda pid: None,
    ) -> None:
        self._command = list(command)
        self._stop_timeout = stop_timeout
        self._environ = {**(environ if environ is not None else os.environ), PARENT_PID: str(os.getpid())}
        self._on_exit = on_exit
        self._children: list[subprocess.Popen[bytes] | None] = [None] * count
        self._started_at = [0.0] * count
        self._backoff = [FIRST_BACKOFF] * count
        self._start_after = [0.0] * count
        self._stopping = threading.Event()

    @property
    def alive(self) -> int:
        """How many children run now."""
        return sum(child is not None and child.poll() is None for child in self._children)

    def stop(self) -> None:
        """Ask ``run`` to stop the children and return; safe from a signal handler."""
        self._stopping.set()

    def heed_signals(self) -> None:
        """SIGTERM and SIGINT mean ``stop`` from now on; ``run`` sees to it at the latest."""
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, lambda *_: self.stop())

    def run(self) -> int:
        """Keep the children running until a stop is asked for. 0 when all stopped in time, 1 when one was killed."""
        self.heed_signals()
        while not self._stopping.is_set():
            for index in range(len(self._children)):
                code = self._tend(index)
                if code == CANNOT_START:
                    self._stop_children()
                    return CANNOT_START
            self._stopping.wait(CHECK_SECONDS)
        return self._stop_children()

    def _tend(self, index: int) -> int | None:
        child, now = self._children[index], time.monotonic()
        if child is None:
            if now >= self._start_after[index]:
                self._children[index] = subprocess.Popen(self._command, env=self._environ)  # noqa: S603
                self._started_at[index] = now
            return None
        code = child.poll()
        if code is None:
            return None
        self._on_exit(child.pid)
        if now - self._started_at[index] > HEALTHY_AFTER:
            self._backoff[index] = FIRST_BACKOFF
        log.error("Process died, starting another", pid=child.pid, code=code, in_seconds=self._backoff[index])
        self._children[index] = None
        self._start_after[index] = now + self._backoff[index]
        self._backoff[index] = min(self._backoff[index] * 2, LONGEST_BACKOFF)
        return code

    def _stop_children(self) -> int:
        running = [child for child in self._children if child is not None and child.poll() is None]
        for child in running:
            child.terminate()
        deadline = time.monotonic() + self._stop_timeout
        killed = 0
        for child in running:
            try:
                child.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
                killed += 1
        return 1 if killed else 0


def has_parent() -> bool:
    """Whether the supervisor that began this process still lives; true for one that was begun by hand."""
    return os.environ.get(PARENT_PID, str(os.getppid())) == str(os.getppid())


def python_module(module: str, *args: str) -> list[str]:
    """The command that runs ``python -m module args`` with this very interpreter."""
    return [sys.executable, "-m", module, *args]
