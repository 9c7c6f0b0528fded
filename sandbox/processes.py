"""A server process that the sandbox began: ended, killed, paused by its pid, never by its name."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Self

LISTENING_PORTS: Final = range(20_000, 32_000)
"""Below the range from which systems take ports for outgoing connections (Linux 32768, others 49152): no client's
own port can occupy the port of a server that is down for a moment, nor can a client there connect to itself."""

PORT_TRIES: Final = 100


class ServerFailed(Exception):
    """A server of the sandbox did not start; the text holds the end of its log."""


class _Claims:
    """Ports that processes on this machine were given, as locks on the bytes of one file.

    A server binds its port a while after it was found free; meanwhile no other run may find it free too. A lock ends
    with the process that holds it.
    """

    def __init__(self) -> None:
        self._mine: set[int] = set()
        self._file: int | None = None

    def take(self, port: int) -> bool:
        """Claim a port for this process; False when it or another process has it already."""
        if port in self._mine:
            return False
        if self._file is None:
            path = Path(tempfile.gettempdir()) / f"plunk-smtp-ports-{os.geteuid()}"
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
        except OSError:
            return False
        self._mine.add(port)
        return True


_claims = _Claims()
# A lock is the process's, so what knows of it is too.


def free_port(preferred: int = 0, *, host: str = "127.0.0.1") -> int:
    """A loopback port that is free now and was given to nobody else: ``preferred`` if it is so, else any."""
    if preferred and _claims.take(preferred) and _is_free(preferred, host):
        return preferred
    for port in random.sample(LISTENING_PORTS, PORT_TRIES):
        if _claims.take(port) and _is_free(port, host):
            return port
    raise ServerFailed("no free port")


def _is_free(port: int, host: str) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def wait_until(condition: Callable[[], object], *, timeout: float, what: str, poll: float = 0.02) -> None:
    """Return as soon as ``condition()`` is true. Raises ``TimeoutError`` naming ``what`` after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout:g} s in vain for {what}")
        time.sleep(poll)


def accepts_connections(port: int, *, host: str = "127.0.0.1") -> bool:
    """Whether something accepts TCP connections there now."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, port)) == 0


def children_of(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(line) for line in found.stdout.split()]


class ServerProcess:
    """One process with its output in a file. Starting again after an end uses the same command."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: Path,
        environ: Mapping[str, str] | None = None,
        user: int | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.command = list(command)
        self.log = log
        self._environ = dict(environ) if environ is not None else None
        self._user = user
        self._stop_signal = stop_signal
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        if self._process is None:
            raise ServerFailed(f"{self.command[0]} was not started")
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.poll() if self._process else None

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def children(self) -> list[int]:
        """The pids of the processes that it started itself and that run now."""
        return children_of(self.pid)

    def start(self) -> None:
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environ,
                user=self._user,
                group=self._user,
                extra_groups=[] if self._user is not None else None,
                # Ctrl-C in the terminal is for the sandbox, which then stops its servers in order.
                start_new_session=True,
            )

    def wait_ready(self, condition: Callable[[], object], *, timeout: float = 30) -> None:
        """Wait until ``condition()``. Raises ``ServerFailed`` with the log's end when it dies or takes too long."""
        deadline = time.monotonic() + timeout
        while not condition():
            if not self.is_running() or time.monotonic() > deadline:
                raise ServerFailed(f"{Path(self.command[0]).name} did not start:\n{self.tail()}")
            time.sleep(0.02)

    def tail(self, lines: int = 20) -> str:
        return "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-lines:]) if self.log.exists() else ""

    def signal(self, signum: signal.Signals) -> None:
        if self.is_running():
            os.kill(self.pid, signum)

    def pause(self) -> None:
        """The process hangs: connections are held open, nothing is answered."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, as a crash."""
        if self._process is not None:
            self.signal(signal.SIGKILL)
            self._process.wait()

    def stop(self, *, timeout: float = 30) -> int | None:
        """Ask it to end; kill it when it does not. The exit code."""
        if self._process is None:
            return None
        self.resume()
        self.signal(self._stop_signal)
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            return self._process.returncode


class Server(ABC):
    """A server of one ``process``, that keeps its port and its data: how it starts is its own, all else is alike."""

    process: ServerProcess

    @abstractmethod
    def start(self) -> None:
        """Start, also after an end, and wait until it answers. Raises ``ServerFailed``."""

    def restart(self) -> None:
        self.process.stop()
        self.start()

    def kill(self) -> None:
        """SIGKILL, as a crash."""
        self.process.kill()

    def stop(self) -> None:
        self.process.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
