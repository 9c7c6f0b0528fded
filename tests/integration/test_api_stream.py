"""The preflight's client against servers made of bytes: each question gets its own answer, or ends by its deadline."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from ingress import api_stream
from ingress.api_stream import MAX_ANSWER, ApiStream
from sandbox.processes import free_port
from sandbox.stack import make_certificate
from shared.http_library import requests
from shared.plunk_api import Answer, NoAnswer, RateLimit
from tests.integration.test_api_calls import CASES, LONG_PAST, TIMEOUT, server

OK = b"HTTP/1.1 200 OK\r\nSet-Cookie: session=1; Path=/\r\nContent-Length: 2\r\n\r\n{}"
SLOW_DOWN = b'{"error": {"code": "RATE_LIMIT", "message": "slow down"}}'
REFUSED = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"

Answers = Callable[[bytes], bytes | None]


class Api:
    """A server of the test's own: ``answers`` gives what is said to a request, None hangs up."""

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[bytes] = []
        self.connections: list[asyncio.StreamWriter] = []
        self.answers: Answers = lambda request: OK
        self.hold = asyncio.Event()
        self.hold.set()
        self.arrived = asyncio.Semaphore(0)
        """Released by each request."""
        self._tls = tls
        self._server: Any = None
        self.port = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
                request = head + await reader.readexactly(length)
                self.requests.append(request)
                self.arrived.release()
                answer = self.answers(request)
                await self.hold.wait()
                if answer is None:
                    break
                writer.write(answer)
        writer.close()

    def beside(self, index: int) -> socket.socket:
        """The socket of a connection, past its stream: what is done is done before the loop's next turn."""
        return socket.socket(fileno=os.dup(self.connections[index].get_extra_info("socket").fileno()))

    async def stop(self) -> None:
        self._server.close()
        for writer in self.connections:
            writer.close()


@pytest_asyncio.fixture
async def api() -> AsyncIterator[Api]:
    api = Api()
    await api.start()
    yield api
    await api.stop()


@pytest_asyncio.fixture
async def stream(api: Api) -> AsyncIterator[ApiStream]:
    stream = ApiStream(f"http://127.0.0.1:{api.port}/api", connections=4)
    yield stream
    stream.close()


def ask(stream: ApiStream, secret: str = "sk_1", timeout: float = 10) -> Awaitable[Answer | NoAnswer]:
    return stream.send(b"BODY", secret=secret, timeout=timeout)


async def test_a_question_has_the_body_and_the_key_and_no_traces_of_the_one_before(api: Api, stream: ApiStream) -> None:
    assert await ask(stream, "sk_1") == await ask(stream, "sk_2") == Answer(status=200)
    first, second = (request.decode() for request in api.requests)
    assert first.startswith("POST /api/v1/send HTTP/1.1\r\n")
    assert first.endswith("\r\n\r\nBODY")
    for line in (
        f"Host: 127.0.0.1:{api.port}",
        "Content-Length: 4",
        "Content-Type: application/json",
        "Authorization: Bearer sk_1",
    ):
        assert f"\r\n{line}\r\n" in first
    assert "\r\nAuthorization: Bearer sk_2\r\n" in second
    assert "sk_1" not in second
    assert "ookie" not in second
    assert len(api.connections) == 1


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (
            b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n",
            Answer(status=302, message="the API answered 302"),
        ),
        (b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + OK, Answer(status=200)),
        (b"HTTP/1.1 204 No Content\r\n\r\n", Answer(status=204)),
        (
            b"HTTP/1.1 429 No\r\nretry-after: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
            + b"".join(b"1\r\n%c\r\n" % byte for byte in SLOW_DOWN)
            + b"0\r\n\r\n",
            Answer(status=429, code="RATE_LIMIT", message="slow down", retry_after=3),
        ),
        (
            b"HTTP/1.1 200 OK\r\nRateLimit-Limit: 10\r\nRATELIMIT-REMAINING: 4\r\nratelimit-reset: 3\r\n"
            b"Content-Length: 0\r\n\r\n",
            Answer(status=200, rate=RateLimit(limit=10, remaining=4, reset=3)),
        ),
    ],
    ids=["redirect", "interim answers", "no content", "chunked", "rate"],
)
async def test_each_form_of_an_answer_is_read_and_the_connection_stays(
    api: Api, stream: ApiStream, said: bytes, answer: Answer
) -> None:
    api.answers = lambda request: said
    assert [await ask(stream) for _ in range(2)] == [answer, answer]
    assert len(api.requests) == 2
    assert len(api.connections) == 1


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    ],
    ids=["told so", "HTTP/1.0"],
)
async def test_a_connection_that_does_not_stay_is_asked_once(api: Api, stream: ApiStream, said: bytes) -> None:
    api.answers = lambda request: said
    assert await ask(stream) == await ask(stream) == Answer(status=200)
    assert len(api.connections) == 2


async def test_an_answer_of_no_told_length_ends_with_its_connection(api: Api, stream: ApiStream) -> None:
    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"BODY")
        writer.write(b'HTTP/1.1 403 No\r\n\r\n{"error": {"message": "not yours"}}')
        writer.close()

    closing = await asyncio.start_server(say, "127.0.0.1", 0)
    own = ApiStream(f"http://127.0.0.1:{closing.sockets[0].getsockname()[1]}", connections=1)
    assert await ask(own) == Answer(status=403, message="not yours")
    own.close()
    closing.close()


@pytest.mark.parametrize(
    "said",
    [
        None,
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\n{}",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * MAX_ANSWER + b"\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (MAX_ANSWER, b"x" * MAX_ANSWER),
    ],
    ids=["none", "nonsense", "half", "another protocol", "two lengths", "large head", "large body"],
)
async def test_what_is_no_answer_is_a_value_and_the_next_question_is_answered(
    api: Api, stream: ApiStream, said: bytes | None
) -> None:
    def answers(request: bytes) -> bytes | None:
        if len(api.requests) == 1:
            if said is not None and b"Content-Length: 9" in said:
                api.connections[0].write(said)
                return None
            return said
        return OK

    api.answers = answers
    assert isinstance(await ask(stream), NoAnswer)
    assert await ask(stream) == Answer(status=200)
    assert len(api.connections) == 2


@pytest.mark.parametrize("secret", ["sk_\r\nX: y", "sk_\n", "sk_☃", "sk_\0"])
async def test_a_secret_that_no_header_can_carry_is_no_exception(api: Api, stream: ApiStream, secret: str) -> None:
    assert await ask(stream, secret) == NoAnswer(cause="InvalidHeader", was_sent=False)
    assert api.requests == []


async def test_a_second_answer_to_one_question_is_not_taken_for_the_next_ones(api: Api, stream: ApiStream) -> None:
    api.answers = lambda request: OK + REFUSED if b"sk_1" in request else OK
    assert await ask(stream, "sk_1") == Answer(status=200)
    assert await ask(stream, "sk_2") == Answer(status=200)
    assert len(api.connections) == 2


async def test_what_comes_unasked_is_not_taken_for_the_next_ones_answer(api: Api, stream: ApiStream) -> None:
    assert await ask(stream, "sk_1") == Answer(status=200)
    # It lies in the socket when the next question is asked: no turn of the loop comes between.
    with api.beside(0) as connection:
        connection.send(REFUSED)
    assert await ask(stream, "sk_2") == Answer(status=200)
    assert len(api.connections) == 2


async def test_no_answer_after_one_of_no_told_length_is_none(api: Api, stream: ApiStream) -> None:
    api.answers = lambda request: b"HTTP/1.1 204 No Content\r\n\r\n" if b"sk_1" in request else None
    assert await ask(stream, "sk_1") == Answer(status=204)
    assert await ask(stream, "sk_2") == NoAnswer(cause="ConnectionResetError")
    assert len(api.connections) == 1


FORMS = (
    OK,
    OK + REFUSED,
    b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK,
    b"HTTP/1.1 429 No\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX: y\r\n\r\n",
    b"HTTP/1.1 403 No\r\nConnection: keep-alive\r\nContent-Length: %d\r\n\r\n%b" % (len(SLOW_DOWN), SLOW_DOWN),
)
PIECES = (
    b"\r\n",
    b"\n",
    b"\0",
    b" ",
    b":",
    b"0",
    b"9",
    b"\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n",
    b"Content-Length: 0\r\n",
    b"\xff",
)


def mutated(answer: bytes, chance: random.Random) -> bytes:
    """``answer`` with one to four places cut out, doubled or written over."""
    for _ in range(chance.randint(1, 4)):
        at, upto = sorted(chance.randint(0, len(answer)) for _ in range(2))
        upto = min(upto, at + 8)
        answer = answer[:at] + chance.choice((b"", 2 * answer[at:upto], chance.choice(PIECES))) + answer[upto:]
    return answer


@pytest.mark.parametrize("seed", range(4))
async def test_after_any_answer_the_next_question_gets_its_own(api: Api, stream: ApiStream, seed: int) -> None:
    chance = random.Random(seed)
    found = set()
    for _ in range(100):
        said = mutated(chance.choice(FORMS), chance)
        api.answers = lambda request, said=said: said if b"Bearer sk_1" in request else OK  # type: ignore[misc]
        found.add(type(await ask(stream, "sk_1", timeout=0.05)))
        assert await ask(stream, "sk_2") == Answer(status=200), said
    assert found == {Answer, NoAnswer}


async def test_a_question_that_was_given_up_leaves_no_answer_for_the_next(api: Api, stream: ApiStream) -> None:
    api.answers = lambda request: REFUSED if b"sk_1" in request else OK
    api.hold.clear()
    given_up = asyncio.create_task(stream.send(b"BODY", secret="sk_1", timeout=10))
    await api.arrived.acquire()
    given_up.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await given_up
    api.hold.set()
    assert await ask(stream, "sk_2") == Answer(status=200)


async def test_a_connection_that_the_api_closed_meanwhile_is_made_anew(api: Api, stream: ApiStream) -> None:
    assert await ask(stream) == Answer(status=200)
    with api.beside(0) as connection:
        connection.shutdown(socket.SHUT_RDWR)
    assert await ask(stream) == Answer(status=200)
    assert len(api.connections) == 2


async def test_a_connection_that_was_long_idle_is_made_anew(
    api: Api, stream: ApiStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await ask(stream) == Answer(status=200)
    monkeypatch.setattr(api_stream, "IDLE_SECONDS", 0.0)
    assert await ask(stream) == Answer(status=200)
    assert len(api.connections) == 2


async def test_many_questions_at_once_have_so_many_connections_and_their_own_answers(
    api: Api, stream: ApiStream
) -> None:
    def answers(request: bytes) -> bytes:
        number = request.partition(b"Bearer sk_")[2].partition(b"\r")[0]
        return b"HTTP/1.1 4%b No\r\nContent-Length: 0\r\n\r\n" % number

    api.answers = answers
    api.hold.clear()
    asked = [asyncio.create_task(stream.send(b"BODY", secret=f"sk_{n}", timeout=10)) for n in range(10, 30)]
    for _ in range(4):
        await api.arrived.acquire()
    api.hold.set()
    found = await asyncio.gather(*asked)
    assert [one.status for one in found if isinstance(one, Answer)] == list(range(410, 430))
    assert len(api.connections) == 4


async def test_the_wait_for_a_connection_is_part_of_a_questions_time(api: Api) -> None:
    stream = ApiStream(f"http://127.0.0.1:{api.port}", connections=1)
    api.hold.clear()
    first = asyncio.create_task(stream.send(b"BODY", secret="sk_1", timeout=60))
    await api.arrived.acquire()
    assert await ask(stream, timeout=0.1) == NoAnswer(cause="TimeoutError", was_sent=False)
    api.hold.set()
    assert await first == Answer(status=200)
    stream.close()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_question_ends_by_its_deadline(name: str, scheme: str) -> None:
    behave, body = CASES[name]
    with server(behave) as port:
        stream = ApiStream(f"{scheme}://127.0.0.1:{port}", connections=1)
        began = time.monotonic()
        for _ in range(2):
            assert isinstance(await stream.send(body, secret="sk_test", timeout=TIMEOUT), NoAnswer)
        assert time.monotonic() - began < LONG_PAST
        stream.close()


@pytest.mark.parametrize("url", ["http://127.0.0.1:{port}", "https://127.0.0.1:{port}", "http://no-such-host.invalid"])
async def test_an_api_that_cannot_be_reached_was_not_asked(url: str) -> None:
    stream = ApiStream(url.format(port=free_port()), connections=1)
    answer = await ask(stream)
    assert isinstance(answer, NoAnswer)
    assert not answer.was_sent


async def test_an_address_that_is_silent_leaves_time_for_the_next(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    # A listener whose queue is full answers no more handshake.
    with socket.create_server(("127.0.0.1", 0), backlog=0) as silent, contextlib.ExitStack() as waiting:
        for _ in range(4):
            client = waiting.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(silent.getsockname())

        look_up = asyncio.get_running_loop().getaddrinfo

        async def addresses(host: str, *args: Any, **options: Any) -> list[Any]:
            if host != "api.example":
                return await look_up(host, *args, **options)
            ports = (silent.getsockname()[1], api.port)
            return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", port)) for port in ports]

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", addresses)
        stream = ApiStream("http://api.example", connections=1)
        assert await ask(stream, timeout=3) == Answer(status=200)
        stream.close()


@pytest.mark.parametrize(
    ("names", "is_trusted", "cause"),
    [
        (("localhost",), True, ""),
        (("elsewhere.example",), True, "SSLCertVerificationError"),
        (("localhost",), False, "SSLCertVerificationError"),
    ],
    ids=["trusted", "another's name", "unknown authority"],
)
async def test_the_apis_certificate_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...], is_trusted: bool, cause: str
) -> None:
    make_certificate(tmp_path, *names)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "fullchain.pem", tmp_path / "privkey.pem")
    if is_trusted:
        monkeypatch.setattr(requests.utils, "DEFAULT_CA_BUNDLE_PATH", str(tmp_path / "fullchain.pem"))
    api = Api(tls=context)
    await api.start()
    stream = ApiStream(f"https://localhost:{api.port}", connections=1)
    try:
        for _ in range(2):
            assert await ask(stream) == (NoAnswer(cause=cause, was_sent=False) if cause else Answer(status=200))
        assert len(api.requests) == (0 if cause else 2)
    finally:
        stream.close()
        await api.stop()
