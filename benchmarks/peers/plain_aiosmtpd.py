"""A plain aiosmtpd on uvloop that accepts everything and does nothing (one process)."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import uvloop
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session


class Handler:
    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        return "250 Message accepted"


def authenticate(*_: Any) -> AuthResult:
    return AuthResult(success=True)


async def serve(port: int) -> None:
    def make() -> SMTP:
        return SMTP(
            Handler(),
            data_size_limit=20_000_000,
            authenticator=authenticate,
            auth_require_tls=False,
            enable_SMTPUTF8=True,
        )

    server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
