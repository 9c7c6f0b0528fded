"""The API's client against a server that is made of bytes: what it says on the wire, and what it makes of answers."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from shared.plunk_api import Answer, NoAnswer, PlunkApi

OK = b"HTTP/1.1 200 OK\r\nSet-Cookie: session=1; Path=/\r\nContent-Length: 2\r\n\r\n{}"


class Server:
    """Answers each request with the next of ``answers`` (None: hangs up); keeps what it was asked."""

    def __init__(self) -> None:
        self.answers: list[bytes | None] = []
        self.requests: list[bytes] = []
        self.connections = 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}/api"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self.connections += 1
            with connection:
                while (request := self._read(connection)) and self.answers:
                    self.requests.append(request)
                    answer = self.answers.pop(0)
                    if answer is None:
                        break
                    connection.sendall(answer)

    @staticmethod
    def _read(connection: socket.socket) -> bytes:
        data = b""
        while b"\r\n\r\n" not in data or len(data.partition(b"\r\n\r\n")[2]) < 4:
            if not (more := connection.recv(4096)):
                break
            data += more
        return data

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(5)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def send(server: Server) -> Iterator[Callable[..., Answer | NoAnswer]]:
    api = PlunkApi(server.url, connections=2)
    yield lambda secret="sk_1", key=None: api.send(b"BODY", secret=secret, timeout=5, idempotency_key=key)
    api.close()


def test_a_call_has_the_body_the_key_and_no_traces_of_the_one_before(
    server: Server, send: Callable[..., Answer | NoAnswer]
) -> None:
    server.answers = [OK, OK]
    assert send("sk_1", "key-1") == send("sk_2") == Answer(status=200)
    first, second = (request.decode() for request in server.requests)
    assert first.startswith("POST /api/v1/send HTTP/1.1\r\n")
    assert first.endswith("\r\n\r\nBODY")
    for line in ("Content-Length: 4", "Content-Type: application/json", "Authorization: Bearer sk_1"):
        assert f"\r\n{line}\r\n" in first
    assert "\r\nIdempotency-Key: key-1\r\n" in first
    assert "\r\nAuthorization: Bearer sk_2\r\n" in second
    # Two projects share the connection and nothing else: neither key nor cookie.
    assert "Idempotency-Key" not in second
    assert "ookie" not in second
    assert server.connections == 1


def test_a_redirect_is_an_answer_and_is_not_followed(server: Server, send: Callable[..., Answer | NoAnswer]) -> None:
    server.answers = [b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n"]
    answer = send()
    assert isinstance(answer, Answer)
    assert answer.status == 302
    assert len(server.requests) == 1


def test_an_error_is_read_with_its_retry_after(server: Server, send: Callable[..., Answer | NoAnswer]) -> None:
    body = b'{"error": {"code": "RATE_LIMIT_EXCEEDED", "message": "slow down"}}'
    server.answers = [b"HTTP/1.1 429 No\r\nretry-after: 3\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)]
    assert send() == Answer(status=429, code="RATE_LIMIT_EXCEEDED", message="slow down", retry_after=3)


@pytest.mark.parametrize("answer", [None, b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}"])
def test_no_answer_or_half_of_one_is_no_exception(
    server: Server, send: Callable[..., Answer | NoAnswer], answer: bytes | None
) -> None:
    server.answers = [answer]
    assert isinstance(send(), NoAnswer)


def test_a_secret_that_no_header_can_carry_is_no_exception(
    server: Server, send: Callable[..., Answer | NoAnswer]
) -> None:
    assert isinstance(send("sk_\r\nX: y"), NoAnswer)
    assert isinstance(send("sk_☃"), NoAnswer)
    assert server.requests == []


def test_nobody_there_is_known_not_to_have_been_sent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    answer = PlunkApi(f"http://127.0.0.1:{port}", connections=1).send(b"{}", secret="sk_1", timeout=5)
    assert isinstance(answer, NoAnswer)
