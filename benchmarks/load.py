"""The load generator: SMTP clients on uvloop, one process of them (``python -m benchmarks.load '<JSON of Load>'``).

Each client does what a normal one does: EHLO, AUTH where asked for, then MAIL, RCPT and DATA in one go where the server
announces PIPELINING (one by one where it does not), the message after 354, and it waits for the reply. Times are
CLOCK_MONOTONIC, which all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import resource
import ssl
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import uvloop

from benchmarks import messages

CONNECT_AT_ONCE: Final = 100

MAX_FAILURES: Final = 50
"""Failed replies or connections after which a load gives up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What one process of clients does."""

    port: int
    begin: float
    """Monotonic time from which what is done counts."""
    end: float
    """Monotonic time at which it ends."""
    connections: int = 20
    kept: bool = True
    """Keep connections for many messages; False = a new connection a message."""
    message: str = "small"
    """``small`` or ``large``."""
    size: int = 0
    """Bytes of a message, 0 = as usual."""
    user: str = ""
    """AUTH PLAIN with these; "" = none."""
    password: str = ""
    tls: bool = False
    rate: float = 0.0
    """Messages a second at fixed times (open loop), whatever the replies take; 0 = as fast as the replies allow."""
    limit: int = 0
    """Messages in all, then stop; 0 = until ``end``."""
    once: bool = False
    """One message a connection, all at once, refusals counted, then stop."""


@dataclass(slots=True, kw_only=True)
class Done:
    """What came of it."""

    accepted: int = 0
    """Messages whose 250 came between ``begin`` and ``end``."""
    total: int = 0
    """All messages that got a 250, warm-up included."""
    failures: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    """From the message's first byte (after 354) to the reply, one a message."""
    ids: dict[str, float] = field(default_factory=dict)
    """What the 250 named the message (its last word) → when it came; open loop only."""
    cpu: float = 0.0
    """CPU seconds of this process between ``begin`` and ``end``."""
    last: float = 0.0
    """When the last 250 came."""
    connected: int = 0
    """Connections that were ready for a message."""


class Client(asyncio.Protocol):
    """One connection. ``fleet`` decides when the next message is due."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._load = fleet.load
        self._buffer = b""
        self._pipelining = False
        self._next: Callable[[int, bytes], None] = self._greeted
        self._steps = 0
        self._started = 0.0
        self.transport: Any = None
        self.messages = 0
        self._ended = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        *lines, self._buffer = buffer.split(b"\n")
        for line in lines:
            if line[4:14] == b"PIPELINING":
                self._pipelining = True
            if line[3:4] != b"-":
                self._next(int(line[:3]), line)

    def connection_lost(self, error: Exception | None) -> None:
        if not self._ended:
            self._ended = True
            self._fleet.lost(self, None if self._next == self._bye else f"connection lost: {error}")

    def _greeted(self, code: int, line: bytes) -> None:
        if self._expect(code, 220, line):
            self._next = self._helloed
            self.transport.write(b"EHLO bench.example\r\n")

    def _helloed(self, code: int, line: bytes) -> None:
        if not self._expect(code, 250, line):
            return
        if self._load.tls and not self._fleet.is_tls(self.transport):
            self._next = self._tls_ready
            self.transport.write(b"STARTTLS\r\n")
        elif self._load.user:
            self._next = self._authenticated
            self.transport.write(b"AUTH PLAIN " + self._fleet.credentials + b"\r\n")
        else:
            self._fleet.ready(self)

    def _tls_ready(self, code: int, line: bytes) -> None:
        if self._expect(code, 220, line):
            self._next = self._helloed
            self._fleet.start_tls(self)

    def hello_again(self, transport: Any) -> None:
        self.transport = transport
        self.transport.write(b"EHLO bench.example\r\n")

    def _authenticated(self, code: int, line: bytes) -> None:
        if self._expect(code, 235, line):
            self._fleet.ready(self)

    def begin(self) -> None:
        """Send one message."""
        self._steps = 0
        self._next = self._step
        commands = self._fleet.commands
        self.transport.write(b"".join(commands) if self._pipelining else commands[0])

    def _step(self, code: int, line: bytes) -> None:
        self._steps += 1
        if self._steps < 3:
            if self._expect(code, 250, line) and not self._pipelining:
                self.transport.write(self._fleet.commands[self._steps])
        elif self._expect(code, 354, line):
            self._next = self._replied
            message = self._fleet.next_message()
            self._started = time.monotonic()
            self.transport.write(message)

    def _replied(self, code: int, line: bytes) -> None:
        if not self._expect(code, 250, line):
            return
        self._fleet.accepted(time.monotonic() - self._started, line)
        if self._load.kept:
            self._fleet.ready(self)
        else:
            self.quit()

    def quit(self) -> None:
        self._next = self._bye
        self.transport.write(b"QUIT\r\n")

    def _bye(self, code: int, line: bytes) -> None:
        self.transport.close()

    def _expect(self, code: int, wanted: int, line: bytes) -> bool:
        if code == wanted:
            return True
        self._ended = True
        self.transport.close()
        self._fleet.lost(self, line.decode("utf-8", "replace").strip())
        return False


class Fleet:
    """All clients of one process, and what they have done."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.done = Done()
        self.commands = (
            f"MAIL FROM:<{messages.SENDER}>\r\n".encode(),
            f"RCPT TO:<{messages.RECIPIENT}>\r\n".encode(),
            b"DATA\r\n",
        )
        self.credentials = base64.b64encode(f"\0{load.user}\0{load.password}".encode())
        body = messages.small(load.size or messages.SMALL_BYTES) if load.message == "small" else b""
        self._body = body or messages.large(load.size or messages.LARGE_BYTES)
        self._run = f"{os.getpid()}-{random.getrandbits(40):x}"
        self._number = 0
        self._ready: list[Client] = []
        self._over = 0
        self._backlog = 0
        self._loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        self._tls = ssl.create_default_context()
        self._tls.check_hostname = False
        self._tls.verify_mode = ssl.CERT_NONE
        self._tasks: set[Any] = set()

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self.load.end or bool(self.load.limit and self._number >= self.load.limit)

    def next_message(self) -> bytes:
        self._number += 1
        return messages.with_id(self._body, f"{self._run}-{self._number}") + b"\r\n.\r\n"

    def ready(self, client: Client) -> None:
        client.messages += 1
        self.done.connected += client.messages == 1
        if self.load.once:
            if client.messages == 1:
                client.begin()
            else:
                self._one_over()
        elif self.load.rate:
            if self._backlog:
                self._backlog -= 1
                client.begin()
            else:
                self._ready.append(client)
        elif not self.is_over:
            client.begin()
        else:
            client.quit()

    def accepted(self, seconds: float, line: bytes) -> None:
        now = time.monotonic()
        self.done.total += 1
        if self.load.begin <= now < self.load.end:
            self.done.accepted += 1
            self.done.seconds.append(seconds)
        self.done.last = now
        if self.load.rate:
            self.done.ids[line.split()[-1].decode()] = now
        if self.load.limit and self.done.total >= self.load.limit:
            self._stopped.set()

    def _one_over(self) -> None:
        self._over += 1
        if self._over >= self.load.connections:
            self._stopped.set()

    def lost(self, client: Client, failure: str | None) -> None:
        if failure and not self._stopped.is_set():
            self.done.failures.append(failure)
            if len(self.done.failures) >= MAX_FAILURES:
                self._stopped.set()
        if self.load.once:
            self._one_over()
        elif not self.is_over and not self._stopped.is_set():
            self._spawn(self._connect())

    @staticmethod
    def is_tls(transport: Any) -> bool:
        return transport.get_extra_info("ssl_object") is not None

    def start_tls(self, client: Client) -> None:
        async def upgrade() -> None:
            transport = await self._loop.start_tls(client.transport, client, self._tls, server_hostname="localhost")
            client.hello_again(transport)

        self._spawn(upgrade())

    def _spawn(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self) -> None:
        try:
            await self._loop.create_connection(lambda: Client(self), "127.0.0.1", self.load.port)
        except OSError as error:
            self.done.failures.append(f"cannot connect: {error}")
            await asyncio.sleep(0.05)
            if len(self.done.failures) < MAX_FAILURES and not self.is_over:
                self._spawn(self._connect())

    async def _pace(self) -> None:
        """Open loop: each message has its time, whether or not those before it were answered."""
        due = max(time.monotonic(), self.load.begin - 0.5)
        while due < self.load.end:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            due += 1 / self.load.rate
            if self._ready:
                self._ready.pop().begin()
            else:
                self._backlog += 1

    async def run(self) -> Done:
        for start in range(0, self.load.connections, CONNECT_AT_ONCE):
            share = min(CONNECT_AT_ONCE, self.load.connections - start)
            await asyncio.gather(*(self._connect() for _ in range(share)))
        if self.load.rate:
            self._spawn(self._pace())
        await asyncio.sleep(max(0.0, self.load.begin - time.monotonic()))
        before = _cpu()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopped.wait(), max(0.0, self.load.end - time.monotonic()))
        self.done.cpu = _cpu() - before
        if self.load.rate:
            # What was begun in time is still answered.
            await asyncio.sleep(1.0)
        self._stopped.set()
        return self.done


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    load = Load(**json.loads(sys.argv[1]))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    async def run() -> Done:
        return await Fleet(load).run()

    json.dump(asdict(uvloop.run(run())), sys.stdout)


if __name__ == "__main__":
    main()
