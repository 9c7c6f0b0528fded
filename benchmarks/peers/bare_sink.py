"""Upper bound: a bare ``asyncio.Protocol`` on uvloop that speaks the commands and throws mail away (one process)."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import uvloop


class Sink(asyncio.Protocol):
    def __init__(self) -> None:
        self._buffer = bytearray()
        self._in_data = False
        self._scanned = 0
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.write(b"220 sink\r\n")

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        out = bytearray()
        while True:
            if self._in_data:
                end = self._buffer.find(b"\r\n.\r\n", self._scanned)
                if end < 0:
                    self._scanned = max(0, len(self._buffer) - 4)
                    break
                self._scanned = 0
                del self._buffer[: end + 5]
                self._in_data = False
                out += b"250 Message accepted\r\n"
                continue
            end = self._buffer.find(b"\n")
            if end < 0:
                break
            command = bytes(self._buffer[:4]).upper()
            del self._buffer[: end + 1]
            if command == b"EHLO":
                out += b"250-sink\r\n250-AUTH PLAIN\r\n250 PIPELINING\r\n"
            elif command == b"AUTH":
                out += b"235 OK\r\n"
            elif command == b"DATA":
                out += b"354 Go\r\n"
                self._in_data = True
            elif command == b"QUIT":
                self._transport.write(bytes(out) + b"221 Bye\r\n")
                self._transport.close()
                return
            else:
                out += b"250 OK\r\n"
        if out:
            self._transport.write(bytes(out))


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Sink, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
