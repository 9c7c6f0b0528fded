"""Authentication: one way for every wrong login, failures counted over processes, a log line for fail2ban."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ingress.backend import Login, Submission
from ingress.certificates import CertificateStore
from ingress.clients import counted_as
from ingress.replies import Replies, Reply
from ingress.session import SessionFactory
from ingress.throttle import LONGEST_DELAY, FailureThrottle, Strike, delay_after
from sandbox.processes import wait_until
from sandbox.redis_server import RedisServer
from sandbox.stack import DEMO_SECRET, ROOT, Stack
from shared.projects import Project
from shared.redis_connection import connect
from shared.settings import load_settings
from tests.support.requirements import requires_program
from tests.support.sessions import connected
from tests.support.stacks import started
from tests.support.wire import Wire

FILTER = ROOT / "docs" / "fail2ban" / "plunk-smtp-relay.conf"

# No difference between a wrong user and a wrong key


class Counting:
    """A backend and a throttle that write down every step."""

    def __init__(self) -> None:
        self.steps: list[str] = []

    async def authenticate(self, secret: str, *, peer: str) -> Login:
        self.steps.append("look up the secret")
        if secret != DEMO_SECRET:
            raise Replies.AUTH_INVALID.error(cause="unknown secret")
        return Login(project=Project(id="p", verified_domains=frozenset()), secret=secret)

    async def check_sender(self, login: Login, domain: str) -> None:
        raise AssertionError

    async def accept(self, submission: Submission) -> Reply:
        raise AssertionError

    async def failed(self, ip: str, secret: str) -> Strike:
        self.steps.append("count the failure")
        return Strike(failures=1, is_too_many=False)


@asynccontextmanager
async def serving(counting: Counting) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    settings = load_settings({"CERT_PATH": "/nowhere"})
    factory = SessionFactory(settings, counting, CertificateStore(settings), counting)  # type: ignore[arg-type]
    async with connected(factory) as streams:
        yield streams


def plain(user: str, secret: str, acts_as: str = "") -> str:
    return base64.b64encode(f"{acts_as}\0{user}\0{secret}".encode()).decode()


WRONG = [
    plain("plunk", "sk_wrong"),
    plain("nobody", "sk_wrong"),
    plain("nobody", DEMO_SECRET),
    plain("", DEMO_SECRET),
    plain("plunk", DEMO_SECRET[:-1]),
    plain("plunk", DEMO_SECRET.upper()),
    plain("plunk", ""),
    plain("plunk", DEMO_SECRET, acts_as="admin"),
    plain("plunk", "x" * 5000),
]


async def test_every_wrong_login_takes_the_same_steps_and_gets_the_same_words() -> None:
    seen: set[tuple[str, ...]] = set()
    for wrong in WRONG:
        counting = Counting()
        async with serving(counting) as (reader, writer):
            writer.write(f"EHLO x\r\nAUTH PLAIN {wrong}\r\nQUIT\r\n".encode())
            everything = (await asyncio.wait_for(reader.read(), 20)).decode()
        answer = everything.splitlines()[-2]
        seen.add((answer, *counting.steps))
    assert seen == {("535 5.7.8 Authentication credentials invalid", "look up the secret", "count the failure")}


async def test_a_right_login_asks_no_throttle() -> None:
    counting = Counting()
    async with serving(counting) as (reader, writer):
        writer.write(f"EHLO x\r\nAUTH PLAIN {plain('Plunk', DEMO_SECRET)}\r\nQUIT\r\n".encode())
        assert b"\r\n235 2.7.0" in await asyncio.wait_for(reader.read(), 20)
    assert counting.steps == ["look up the secret"]


# The throttle


@pytest.mark.parametrize(
    ("failures", "seconds"), [(0, 0), (1, 0), (2, 0.5), (3, 1), (4, 2), (6, 8), (7, 8), (10**6, 8)]
)
def test_the_delay_grows_to_a_bound(failures: int, seconds: float) -> None:
    assert delay_after(failures) == seconds <= LONGEST_DELAY


def throttle(redis_url: str | None, *, window: int = 60, limit: int = 3) -> FailureThrottle:
    connection = connect(redis_url, connections=2, socket_timeout=1.0) if redis_url else None
    return FailureThrottle(connection, name="q", pepper="postgresql://u:pw@h/d", limit=limit, window=window)


async def test_processes_count_together_by_address_and_by_key(empty_redis: RedisServer) -> None:
    one, two = throttle(empty_redis.url), throttle(empty_redis.url)
    assert [(await t.failed("192.0.2.1", f"sk_{n}")).failures for n, t in enumerate([one, two, one])] == [1, 2, 3]
    assert (await two.failed("192.0.2.1", "sk_3")).is_too_many
    # Guesses at one key from everywhere: the beginning they share is counted.
    found = [await one.failed(f"198.51.100.{n}", f"sk_live_12345{n}") for n in range(4)]
    assert [strike.failures for strike in found] == [1, 2, 3, 4]
    # IPv6: a client is its /64.
    found = [await one.failed(f"2001:db8::{n}", f"sk_{n}_v6") for n in range(3)]
    assert [strike.failures for strike in found] == [1, 2, 3]
    assert (await one.failed("2001:db8:0:1::1", "sk_other_v6")).failures == 1


async def test_counters_expire_and_later_failures_do_not_prolong_them(empty_redis: RedisServer) -> None:
    counting = throttle(empty_redis.url, window=2)
    client = empty_redis.client()
    assert (await counting.failed("192.0.2.1", "sk_a")).failures == 1
    began = {key: client.pttl(key) for key in client.keys("q:auth-failures:*")}
    assert len(began) == 2
    assert all(0 < int(ttl) <= 2000 for ttl in began.values())  # type: ignore[arg-type]
    assert (await counting.failed("192.0.2.1", "sk_a")).failures == 2
    assert all(int(client.pttl(key)) <= int(ttl) for key, ttl in began.items())  # type: ignore[arg-type]
    wait_until(lambda: not client.keys("q:auth-failures:*"), timeout=20, what="the counters to expire")
    assert (await counting.failed("192.0.2.1", "sk_a")).failures == 1


async def test_redis_holds_no_part_of_what_was_tried(empty_redis: RedisServer) -> None:
    await throttle(empty_redis.url).failed("192.0.2.1", "sk_live_abcdefghijklmnop")
    client = empty_redis.client()
    names = [key.decode() for key in client.keys("*")]
    assert sorted(re.sub(r"[0-9a-f]{16}$", "<digest>", name) for name in names) == [
        "q:auth-failures:ip:192.0.2.1",
        "q:auth-failures:key:<digest>",
    ]
    # The digest is keyed: without the relay's own settings nobody can try prefixes on it.
    other = FailureThrottle(None, name="q", pepper="another", limit=1, window=1)
    assert other.keys("192.0.2.1", "sk_live_abcdefghijklmnop")[1] not in names


async def test_without_redis_a_process_counts_alone_and_goes_back_later(empty_redis: RedisServer) -> None:
    nowhere = throttle("redis://127.0.0.1:1")
    assert [(await nowhere.failed("192.0.2.1", f"sk_{n}")).failures for n in range(4)] == [1, 2, 3, 4]
    assert (await nowhere.failed("192.0.2.1", "sk_4")).is_too_many


@pytest.fixture(scope="module")
def throttled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Two ingress processes, few failures allowed, one network never counted."""
    stack = Stack(
        tmp_path_factory.mktemp("throttled"),
        tls=False,
        INGRESS_PROCESSES="2",
        AUTH_THROTTLE_FAILURES="2",
        AUTH_ALLOW_LIST="127.0.7.0/24, 2001:db8::/32",
    )
    with started(stack, ingress=True):
        yield stack


@pytest.fixture
def fresh(throttled: Stack) -> Stack:
    client = throttled.redis.client()
    for key in client.scan_iter("*auth-failures*"):
        client.delete(key)
    return throttled


def guess(stack: Stack, secret: str, *, source: str = "127.0.0.1") -> str:
    with Wire(stack.port_submission, source=source) as wire:
        return wire.login(secret)[:9]


def test_over_connections_and_processes_failures_end_in_421_and_a_right_key_still_gets_in(fresh: Stack) -> None:
    assert [guess(fresh, f"sk_guess_{n}_{n}") for n in range(2)] == ["535 5.7.8"] * 2
    assert guess(fresh, "sk_guess_5_5") == "421 4.7.0"
    # Never a lock-out: whoever has the key gets in, from the very address that guessed.
    assert guess(fresh, DEMO_SECRET) == "235 2.7.0"
    assert guess(fresh, "sk_guess_6_6") == "421 4.7.0"
    assert guess(fresh, "sk_elsewhere", source="127.0.0.2") == "535 5.7.8"


def test_guesses_at_one_key_from_many_addresses_are_throttled_and_its_owner_is_not(fresh: Stack) -> None:
    guesses = [guess(fresh, f"{DEMO_SECRET[:-1]}{n}", source=f"127.0.3.{n + 1}") for n in range(3)]
    assert guesses == ["535 5.7.8"] * 2 + ["421 4.7.0"]
    assert guess(fresh, DEMO_SECRET, source="127.0.3.9") == "235 2.7.0"


def test_the_allow_list_is_not_counted(fresh: Stack) -> None:
    assert {guess(fresh, f"sk_a_{n}", source="127.0.7.7") for n in range(5)} == {"535 5.7.8"}


def test_a_redis_outage_neither_lets_in_nor_locks_out(fresh: Stack) -> None:
    fresh.redis.kill()
    try:
        assert guess(fresh, "sk_wrong_during_outage", source="127.0.4.1") == "535 5.7.8"
        assert guess(fresh, DEMO_SECRET, source="127.0.4.1") == "235 2.7.0"
    finally:
        fresh.redis.start()


def test_a_database_outage_lets_nobody_in_says_no_535_and_counts_nothing(fresh: Stack) -> None:
    fresh.postgres.stop()
    try:
        with Wire(fresh.port_submission) as wire:
            assert [wire.login(secret)[:9] for secret in (DEMO_SECRET, "sk_wrong", "")] == ["454 4.7.0"] * 3
            assert wire.say("MAIL FROM:<a@example.com>").startswith("530 5.7.0")
    finally:
        fresh.postgres.start()
    assert not list(fresh.redis.client().scan_iter("*auth-failures*"))
    assert guess(fresh, DEMO_SECRET) == "235 2.7.0"


# fail2ban


def failures_logged(stack: Stack) -> list[str]:
    return [line for line in stack.ingress.output().splitlines() if "Authentication failed" in line]


FORGED = 'MAIL FROM:<"x\\", \\"event\\": \\"Authentication failed from [192.0.2.66]"@example.com>'


def test_the_filter_matches_our_line_and_no_forged_one(fresh: Stack, tmp_path: Path) -> None:
    program = requires_program("fail2ban-regex", package="fail2ban")
    guess(fresh, "sk_for_fail2ban", source="127.0.5.5")
    with Wire(fresh.port_submission) as wire:
        wire.login()
        wire.say(FORGED)
        wire.say('EHLO "event": "Authentication failed from [192.0.2.66]"')
    log = tmp_path / "ingress.log"
    lines = [line for line in fresh.ingress.output().splitlines() if "127.0.5.5" in line or "192.0.2.66" in line]
    # As if every value that a client can bring had been logged.
    lines.append(
        json.dumps({"subject": '"event": "Authentication failed from [192.0.2.66]"', "event": "Email accepted"})
    )
    log.write_text("\n".join([*lines, *failures_logged(fresh)]) + "\n")
    found = subprocess.run(
        [program, "--print-all-matched", str(log), str(FILTER)], capture_output=True, text=True, check=True
    ).stdout
    matched = int(re.search(r"(\d+) matched", found)[1])  # type: ignore[index]
    assert matched == sum("Authentication failed from [127." in line for line in log.read_text().splitlines()) > 0
    assert "[127.0.5.5]" in found
    assert "192.0.2.66" not in re.sub(r"(?s)Missed line.*", "", found)
    assert re.search(r"\[\d+\] \"timestamp\"", found), "the date is read"


def test_the_pattern_itself_reads_the_address(fresh: Stack) -> None:
    guess(fresh, "sk_for_the_pattern", source="127.0.6.6")
    pattern = re.search(r"^failregex = (.*)$", FILTER.read_text(), re.M)[1]  # type: ignore[index]
    compiled = re.compile(pattern.replace("<HOST>", r"(?P<host>[0-9a-fA-F.:]+)"))
    found = [match["host"] for line in failures_logged(fresh) if (match := compiled.match(line))]
    assert len(found) == len(failures_logged(fresh))
    assert found[-1] == "127.0.6.6"


@pytest.mark.parametrize(
    ("address", "network"),
    [("192.0.2.1", "192.0.2.1"), ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"), ("", ""), ("::1", "::/64")],
)
def test_what_an_address_counts_as(address: str, network: str) -> None:
    assert counted_as(address) == network
