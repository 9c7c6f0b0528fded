"""The servers that are measured side by side, each started and stopped on a free loopback port."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from benchmarks.world import ROOT, NullApi, World, process_tree
from sandbox.processes import ServerProcess, accepts_connections, free_port, wait_until

NODE_FOLDER: Final = Path(__file__).parent / "node"


class Missing(Exception):
    """A peer cannot run on this machine; the text says what is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running server."""

    port: int
    with_auth: bool
    pids: tuple[int, ...] = ()
    """Roots of its processes, for CPU and memory."""

    def all_pids(self) -> list[int]:
        return [pid for root in self.pids for pid in process_tree(root)]


class Peer(Protocol):
    name: str
    durable: bool
    """Whether its 250 comes after the message is safe on disk (or, for the node peer, with the API)."""

    def run(self, world: World, api: NullApi) -> AbstractContextManager[Server]:
        """Raises ``Missing``."""
        ...


class Relay:
    """This relay's ingress, all checks on, its defaults but for the number of processes."""

    durable = True

    def __init__(self, processes: int = 0) -> None:
        self.name = "relay"
        self._processes = processes

    @contextmanager
    def run(self, world: World, api: NullApi) -> Iterator[Server]:
        world.empty_redis()
        processes = self._processes or world.scale.processes
        with world.role("ingress", api, INGRESS_PROCESSES=str(processes)) as role:
            yield Server(port=role.port, with_auth=True, pids=(role.process.pid,))


class NodePeer:
    """The original's shape: smtp-server, mailparser and a POST a message before the reply."""

    name = "node peer"
    durable = True

    @contextmanager
    def run(self, world: World, api: NullApi) -> Iterator[Server]:
        with_peers(world)
        port = free_port()
        command = [install_node(), str(NODE_FOLDER / "relay.js"), str(port), api.url, world.postgres.url]
        process = ServerProcess(command, log=world.directory / f"node_{port}.log")
        process.start()
        try:
            process.wait_ready(lambda: accepts_connections(port))
            yield Server(port=port, with_auth=True, pids=(process.pid,))
        finally:
            process.stop(timeout=5)


def with_peers(world: World) -> None:
    """Raises ``Missing`` at a scale that leaves other relays out."""
    if not world.scale.with_peers:
        raise Missing("other relays are left out at this scale")


def install_node() -> str:
    """Path of node, its packages installed. Raises ``Missing``."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if not node or not npm:
        raise Missing("node peer: node and npm are not installed")
    if not (NODE_FOLDER / "node_modules" / "smtp-server").exists():
        done = subprocess.run(
            [npm, "ci", "--no-audit", "--no-fund"], cwd=NODE_FOLDER, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise Missing(f"node peer: npm ci failed: {done.stderr.strip()[-300:]}")
    return node


class PythonPeer:
    """A server of ``benchmarks.peers`` in a process of its own that throws mail away."""

    durable = False

    def __init__(self, name: str, module: str) -> None:
        self.name = name
        self._module = module

    @contextmanager
    def run(self, world: World, api: NullApi) -> Iterator[Server]:
        port = free_port()
        process = ServerProcess(
            [sys.executable, "-m", f"benchmarks.peers.{self._module}", str(port)],
            log=world.directory / f"{self._module}_{port}.log",
            environ={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        process.start()
        try:
            process.wait_ready(lambda: accepts_connections(port))
            yield Server(port=port, with_auth=True, pids=(process.pid,))
        finally:
            process.stop(timeout=5)


_MASTER: Final = """
127.0.0.1:{port} inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
smtp unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
anvil unix - - n - 1 anvil
proxymap unix - - n - - proxymap
postlog unix-dgram n - n - 1 postlogd
"""

# Mail goes to the hold queue on disk: what is measured is the durable accept, not the delivery.
_MAIN: Final = """
compatibility_level = 3.6
queue_directory = {root}/spool
data_directory = {root}/data
mail_owner = postfix
setgid_group = postdrop
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = bench.example
mydestination =
mynetworks = 127.0.0.0/8
alias_maps =
local_recipient_maps =
smtpd_recipient_restrictions = check_client_access static:HOLD, permit_mynetworks, reject
smtp_dns_support_level = disabled
message_size_limit = 20000000
maillog_file = {root}/maillog
maillog_file_prefixes = {root}
"""


class Postfix:
    """Debian's Postfix, an instance of its own: no SASL, no database, no preflight; its queue is on disk with fsync."""

    name = "Postfix"
    durable = True

    @contextmanager
    def run(self, world: World, api: NullApi) -> Iterator[Server]:
        with_peers(world)
        program = shutil.which("postfix")
        if not program:
            raise Missing("Postfix: not installed (Debian: apt-get install postfix)")
        if os.geteuid() != 0:
            raise Missing("Postfix: starts as root only")
        port = free_port()
        root = world.directory / f"postfix_{port}"
        config = root / "etc"
        for folder in (root, config, root / "spool", root / "data"):
            folder.mkdir()
            folder.chmod(0o755)
        os.chown(root / "data", pwd.getpwnam("postfix").pw_uid, -1)
        (config / "main.cf").write_text(_MAIN.format(root=root), "utf-8")
        (config / "master.cf").write_text(_MASTER.format(port=port), "utf-8")
        done = subprocess.run([program, "-c", str(config), "start"], capture_output=True, text=True, check=False)
        try:
            if done.returncode != 0:
                raise Missing(f"Postfix does not start: {done.stderr.strip()[-300:]}")
            wait_until(lambda: accepts_connections(port), timeout=30, what="Postfix")
            master = int((root / "spool" / "pid" / "master.pid").read_text("ascii"))
            yield Server(port=port, with_auth=False, pids=(master,))
        finally:
            subprocess.run([program, "-c", str(config), "stop"], capture_output=True, check=False)
            shutil.rmtree(root, ignore_errors=True)


def all_peers() -> list[Peer]:
    """The relay first, then its peers."""
    return [
        Relay(),
        NodePeer(),
        Postfix(),
        PythonPeer("plain aiosmtpd", "plain_aiosmtpd"),
        PythonPeer("bare sink", "bare_sink"),
    ]
