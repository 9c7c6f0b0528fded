"""The moment at which the first piece of a large body is in Redis and the others are yet to come."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import redis

from sandbox.processes import wait_until


def after_the_first_piece(monkeypatch: pytest.MonkeyPatch, client: redis.Redis, action: Callable[[], object]) -> None:
    """Do ``action`` each time when any connection has written the first piece of a body and is about to go on."""
    send = redis.Connection.send_packed_command

    def send_in_two(self: redis.Connection, command: str | bytes | Iterable[Any], check_health: bool = True) -> None:
        chunks = [command] if isinstance(command, str | bytes) else list(command)
        texts = [chunk.encode() if isinstance(chunk, str) else bytes(chunk) for chunk in chunks]
        is_body = any(b"\r\nRPUSHX\r\n" in text for text in texts)
        end = next((at for at, text in enumerate(texts, 1) if is_body and b"\r\nEXEC\r\n" in text), len(chunks))
        send(self, chunks[:end], check_health)  # type: ignore[no-untyped-call]
        if is_body:
            wait_until(lambda: bool(client.keys("*:body:*")), timeout=30, what="the first piece")
            action()
            send(self, chunks[end:], False)  # type: ignore[no-untyped-call]

    monkeypatch.setattr(redis.Connection, "send_packed_command", send_in_two)
