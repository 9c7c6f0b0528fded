"""Calls to an API that misbehaves on the wire: each ends by its deadline, whatever the other side does."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from forwarder.sender import Sender
from sandbox.processes import free_port
from shared.plunk_api import Answer, NoAnswer, PlunkApi
from shared.queued_message import QueuedMessage, State, StoredMessage
from shared.verdict import Verdict

TIMEOUT = 0.6
LONG_PAST = 15.0
"""Seconds: the servers below would go on for minutes; far more than TIMEOUT on the slowest machine."""

STORED = StoredMessage(
    message=QueuedMessage(
        id="0" * 32,
        project_id="p",
        sender="a@example.com",
        recipients=("b@x.example",),
        envelope_from="a@example.com",
        accepted_at=0,
        body=b"{}",
    ),
    state=State.SENDING,
    job_id="j",
    attempts=0,
    generation=1,
    last_answer=None,
)


class OneSecret:
    """Stands where the look-up in PostgreSQL is."""

    def of(self, project_id: str, *, timeout: float, fresh: bool = False) -> str:
        return "sk_test"


@contextmanager
def server(behave: Callable[[socket.socket, threading.Event], None]) -> Iterator[int]:
    """A listening port; each connection is handed to ``behave`` until the test is over."""
    over = threading.Event()
    listening = socket.create_server(("127.0.0.1", 0))
    listening.settimeout(0.1)

    def one(connection: socket.socket) -> None:
        with connection:
            try:
                behave(connection, over)
            except OSError:
                return

    def serve() -> None:
        while not over.is_set():
            try:
                connection, _ = listening.accept()
            except TimeoutError:
                continue
            threading.Thread(target=one, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        over.set()
        thread.join()
        listening.close()


def drip(text: bytes) -> Callable[[socket.socket, threading.Event], None]:
    def behave(connection: socket.socket, over: threading.Event) -> None:
        connection.recv(65536)
        for byte in text:
            connection.sendall(bytes([byte]))
            if over.wait(0.1):
                return

    return behave


def reads_nothing(connection: socket.socket, over: threading.Event) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
    over.wait()


def is_silent(connection: socket.socket, over: threading.Event) -> None:
    connection.recv(65536)
    over.wait()


def closes(connection: socket.socket, over: threading.Event) -> None:
    connection.recv(65536)


def resets(connection: socket.socket, over: threading.Event) -> None:
    connection.recv(65536)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def talks_nonsense(connection: socket.socket, over: threading.Event) -> None:
    connection.recv(65536)
    connection.sendall(b"220 mail.example ESMTP\r\n" * 10)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"
CASES: dict[str, tuple[Callable[[socket.socket, threading.Event], None], bytes]] = {
    "drips its headers": (drip(b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 10_000), b"{}"),
    "drips its body": (drip(HEAD + b"x" * 100_000), b"{}"),
    "reads nothing": (reads_nothing, b"x" * 30_000_000),
    "is silent": (is_silent, b"{}"),
    "closes": (closes, b"{}"),
    "resets": (resets, b"{}"),
    "talks nonsense": (talks_nonsense, b"{}"),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_call_ends_by_its_deadline_and_the_message_is_tried_again(name: str, scheme: str) -> None:
    behave, body = CASES[name]
    with server(behave) as port:
        api = PlunkApi(f"{scheme}://127.0.0.1:{port}", connections=1)
        began = time.monotonic()
        answer = api.send(body, secret="sk_test", timeout=TIMEOUT)
        assert isinstance(answer, NoAnswer)
        sender = Sender(api, OneSecret(), timeout=TIMEOUT, on_ambiguous="retry")  # type: ignore[arg-type]
        assert sender.send(STORED, blips_until=began).verdict is Verdict.AGAIN
        assert time.monotonic() - began < LONG_PAST
        api.close()


@pytest.mark.parametrize(
    "url",
    [
        lambda: f"http://127.0.0.1:{free_port()}",
        lambda: "http://no-such-host.invalid",
        lambda: f"https://127.0.0.1:{free_port()}",
    ],
    ids=["refused", "no such name", "refused, TLS"],
)
def test_an_api_that_cannot_be_reached_is_tried_again(url: Callable[[], str]) -> None:
    api = PlunkApi(url(), connections=1)
    assert isinstance(api.send(b"{}", secret="sk_test", timeout=TIMEOUT), NoAnswer)
    sender = Sender(api, OneSecret(), timeout=TIMEOUT, on_ambiguous="retry")  # type: ignore[arg-type]
    outcome = sender.send(STORED, blips_until=time.monotonic())
    assert outcome.verdict is Verdict.AGAIN
    assert "sk_" not in str(outcome.answer)


def test_connections_are_kept_alive_and_a_late_call_gets_its_own_deadline() -> None:
    connections: list[socket.socket] = []

    def answers(connection: socket.socket, over: threading.Event) -> None:
        connections.append(connection)
        while data := connection.recv(65536):
            # Head and body may come one after the other: the request is over with its body.
            if data.endswith(b"{}"):
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    with server(answers) as port:
        api = PlunkApi(f"http://127.0.0.1:{port}", connections=1)
        for _ in range(3):
            assert api.send(b"{}", secret="sk_test", timeout=TIMEOUT) == Answer(status=200)
            time.sleep(TIMEOUT / 2)
        assert len(connections) == 1
        api.close()
