"""A very cheap API: answers every POST with 200 after a set time, counts, and knows when it answered which key.

``python -m benchmarks.null_api PORT LATENCY_MS``. A call with an empty ``to`` is a preflight and counts apart.
``GET /counts`` and ``GET /answers`` (Idempotency-Key → CLOCK_MONOTONIC of the answer) show, ``POST /reset`` forgets.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from typing import Any, Final

import orjson
import uvloop

OK: Final = b'{"success":true,"data":{"emails":[],"timestamp":"2026-11-02T10:00:00.000Z"}}'
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_KEY: Final = re.compile(rb"\r\nidempotency-key: *([^\r]+)", re.IGNORECASE)
_EMPTY_TO: Final = b'"to":[]'
PREFLIGHT_BYTES: Final = 400
"""Only so short a body is looked at for an empty ``to``."""


class Records:
    def __init__(self, latency: float) -> None:
        self.latency = latency
        self.answers: list[tuple[str, float]] = []
        self.preflights = 0


class Api(asyncio.Protocol):
    def __init__(self, records: Records, loop: asyncio.AbstractEventLoop) -> None:
        self._records = records
        self._loop = loop
        self._buffer = bytearray()
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._buffer[:end])
            found = _LENGTH.search(head)
            size = int(found[1]) if found else 0
            if len(self._buffer) < end + 4 + size:
                return
            is_preflight = size <= PREFLIGHT_BYTES and _EMPTY_TO in self._buffer
            del self._buffer[: end + 4 + size]
            self._answer(head, is_preflight)

    def _answer(self, head: bytes, is_preflight: bool) -> None:
        if not head.startswith(b"POST /v1/send"):
            self._write(self._control(head))
            return
        if is_preflight:
            self._records.preflights += 1
        key = _KEY.search(head)
        name = "" if is_preflight or key is None else key[1].decode()
        if self._records.latency:
            self._loop.call_later(self._records.latency, self._finish, name, is_preflight)
        else:
            self._finish(name, is_preflight)

    def _finish(self, name: str, is_preflight: bool) -> None:
        if not is_preflight:
            self._records.answers.append((name, time.monotonic()))
        self._write(OK)

    def _control(self, head: bytes) -> bytes:
        records = self._records
        if head.startswith(b"POST /reset"):
            records.answers.clear()
            records.preflights = 0
        elif head.startswith(b"GET /answers"):
            return orjson.dumps(records.answers)
        return orjson.dumps({"sent": len(records.answers), "preflights": records.preflights})

    def _write(self, body: bytes) -> None:
        if not self._transport.is_closing():
            head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
            self._transport.write(head + body)


async def serve(port: int, latency: float) -> None:
    loop = asyncio.get_running_loop()
    records = Records(latency)
    server = await loop.create_server(lambda: Api(records, loop), "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), float(sys.argv[2]) / 1000))
