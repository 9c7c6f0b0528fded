"""No secret is left anywhere: a full run under the least rights that the docs ask for, then everything is searched."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import requests

from ingress.checks import check_all
from sandbox.processes import ServerFailed, free_port, wait_until
from sandbox.stack import DEMO_SECRET, ROOT, Role, Stack
from shared.checks import check_database, check_redis
from shared.log import redact_all
from shared.settings import FILE_SETTINGS, SettingsError, load_settings
from tests.support.tls_front import TlsFront
from tests.support.wire import Wire, simple

DEPLOYMENT = (ROOT / "docs" / "deployment.md").read_text("utf-8")

REDIS_PASSWORD = "hunter2-redis-pw"
DATABASE_PASSWORD = "hunter2-database-pw"
MISTYPED = "sk_mistyped_hunter2_0123456789abcdef"
SECRETS = (DEMO_SECRET, MISTYPED, REDIS_PASSWORD, DATABASE_PASSWORD)


def documented(language: str, containing: str) -> str:
    """The code block of docs/deployment.md that holds ``containing``."""
    blocks = re.findall(r"(?ms)^```(\w*)\n(.*?)^```$", DEPLOYMENT)
    return next(block for its_language, block in blocks if its_language == language and containing in block)


def grant_read_only(stack: Stack) -> None:
    """The database role of the docs, word for word."""
    stack.postgres.execute(documented("sql", "CREATE ROLE relay").replace("…", DATABASE_PASSWORD))


def grant_queue_only(stack: Stack) -> None:
    """The Redis user of the docs, word for word."""
    command = documented("", "ACL SETUSER relay").replace("…", REDIS_PASSWORD).split()
    stack.redis.client().execute_command(*command)


class LeastRights(Stack):
    """A relay under the docs' least rights, its URLs in files, at the most talkative log level, with probes."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, tls=False, LOG_LEVEL="debug")
        self.secrets = directory / "secrets"
        self.secrets.mkdir()
        self.health = {"ingress": free_port(), "forwarder": free_port()}
        database = f"postgresql://relay:{DATABASE_PASSWORD}@127.0.0.1:{self.postgres.port}/postgres"
        (self.secrets / "database").write_text(database + "\n")
        (self.secrets / "redis").write_text(f"redis://relay:{REDIS_PASSWORD}@127.0.0.1:{self.redis.port}/0\n")
        files = {"DATABASE_URL_FILE": str(self.secrets / "database"), "REDIS_URL_FILE": str(self.secrets / "redis")}
        self.environ = {**self.environ, "DATABASE_URL": "", "REDIS_URL": "", **files}
        for name, args in (("ingress", []), ("forwarder", ["--workers", "2"])):
            role = Role(name, directory, {**self.environ, "HEALTH_PORT": str(self.health[name])}, *args)
            setattr(self, name, role)


@pytest.fixture(scope="module")
def least(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LeastRights]:
    stack = LeastRights(tmp_path_factory.mktemp("least"))
    try:
        stack.start_services()
        grant_read_only(stack)
        grant_queue_only(stack)
        stack.start_ingress()
        stack.start_forwarder()
        yield stack
    finally:
        stack.stop()


def our_processes(stack: Stack) -> list[int]:
    """The roles' processes with all their children, and the servers'."""
    parents = [
        stack.ingress.process.pid,
        stack.forwarder.process.pid,
        stack.redis.process.pid,
        stack.postgres.process.pid,
    ]
    found = list(parents)
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        if parent in parents:
            found.append(int(path.parent.name))
    return found


def test_a_full_run_leaves_no_secret_anywhere(least: LeastRights) -> None:
    everything: dict[str, bytes] = {}

    def keep(name: str, content: bytes) -> None:
        everything[name] = everything.get(name, b"") + content

    # An API that quotes the key in its errors, in the preflight and after 250; a mistyped key; outages of both stores.
    quoted = f"The key {DEMO_SECRET} is over its limit"
    with Wire(least.port_submission) as wire:
        assert wire.login(MISTYPED).startswith("535")
        assert wire.login().startswith("235")
        least.api.fail("status", scope="preflight", status=402, message=quoted, times=1)
        refused = wire.message(simple(subject="refused"))
        assert refused.startswith("554 5.7.0 Transaction failed: The key [redacted] is over its limit")
        assert wire.message(simple(subject="sent")).startswith("250")
        wait_until(lambda: least.api.sent(), timeout=30, what="the mail")
        least.api.fail("status", scope="send", status=402, message=quoted, times=1)
        assert wire.message(simple(subject="dead")).startswith("250")
        least.api.fail("status", scope="send", status=500, times=1)
        assert wire.message(simple(subject="twice tried")).startswith("250")
        client = least.redis.client()
        wait_until(lambda: client.zcard("plunk-smtp:dead"), timeout=30, what="a dead letter")
        least.postgres.stop()
        assert wire.say("MAIL FROM:<a@not-known-yet.example>").startswith("451")
        least.postgres.start()
        for key in client.scan_iter():
            keep("Redis", key + (client.dump(key) or b""))
        least.redis.kill()
        assert wire.message(simple(subject="refused too")).startswith("451")
        least.redis.start()
        grant_queue_only(least)
        assert wire.message(simple(subject="kept")).startswith("250")
    for name, port in least.health.items():
        for page in ("metrics", "readyz", "livez"):
            keep(f"/{page}", requests.get(f"http://127.0.0.1:{port}/{page}", timeout=20).content)
        assert b"plunk_smtp" in everything["/metrics"], name
    for pid in our_processes(least):
        keep("ps", (Path("/proc") / str(pid) / "cmdline").read_bytes())
    environ = {"PATH": os.environ["PATH"], **least.environ}
    for command in (["forwarder", "failed", "list"], ["forwarder", "status", "--verify"], ["ingress", "--check"]):
        finished = subprocess.run(
            [sys.executable, "-m", *command], env=environ, cwd=ROOT, capture_output=True, check=False, timeout=60
        )
        keep(" ".join(command), finished.stdout + finished.stderr)
    client = least.redis.client()
    # A restarted Redis knows the user only once it is made anew: those are "auth".
    # CLIENT SETINFO and the like are redis-py's own; it does without.
    entries = [entry for entry in client.acl_log() if entry["username"] == "relay" and entry["reason"] != "auth"]
    denied = [entry for entry in entries if entry["object"] != "client"]
    assert not denied, "the docs' Redis user can do all that the relay does"
    for name in ("ingress.log", "forwarder.log", "postgres/postgres.log"):
        keep(name, (least.directory / name).read_bytes())
    for path in (least.directory / "redis").rglob("*"):
        if path.is_file():
            keep("Redis's files", path.read_bytes())
    # Each place was looked at when there was something to see.
    looked_at = {
        "Redis": b"dead",
        "Redis's files": b"sent",
        "ps": b"forwarder",
        "forwarder failed list": b"[redacted]",
        "ingress.log": b"Email accepted",
        "forwarder.log": b"Email relayed",
    }
    for name, content in looked_at.items():
        assert content in everything[name], name
    found = {(name, secret) for name, content in everything.items() for secret in SECRETS if secret.encode() in content}
    assert not found


def test_the_database_role_cannot_do_more_than_read_five_columns(least: LeastRights) -> None:
    allowed = 'SELECT id, secret FROM projects; SELECT "projectId", domain, verified FROM domains;'
    least.postgres.execute("SET ROLE relay; " + allowed)
    for statement in ("SELECT public FROM projects", "UPDATE projects SET secret = 'x'", "DELETE FROM domains",
                      "INSERT INTO domains VALUES ('a', 'b', 'c', true)", "CREATE TABLE t (a int)"):  # fmt: skip
        with pytest.raises(ServerFailed, match="permission denied"):
            least.postgres.execute(f"SET ROLE relay; {statement};")


FORBIDDEN = [
    *("FLUSHALL", "KEYS *", "CONFIG SET maxmemory 1", "SHUTDOWN", "GET other", "DEBUG SLEEP 0"),
    *("SAVE", "ACL LIST", "REPLICAOF localhost 1", "CLIENT KILL TYPE normal"),
]


@pytest.mark.parametrize("command", FORBIDDEN)
def test_the_redis_user_cannot_do_more_than_queue(least: LeastRights, command: str) -> None:
    client = redis.Redis(port=least.redis.port, username="relay", password=REDIS_PASSWORD)
    with pytest.raises(redis.exceptions.NoPermissionError):
        client.execute_command(*command.split())
    least.redis.client().acl_log_reset()


# Configuration that is wrong, or leads nowhere, is told of without its secrets

BROKEN = [
    {"DATABASE_URL": "postgresql://u:hunter2@h:port/x"},
    {"DATABASE_URL": "postgresql://u:hunter2@[::1/x"},
    {"DATABASE_URL": "postgresql://u:hunter2@127.0.0.1:1/x?sslmode=nonsense"},
    {"DATABASE_URL": "postgresql://u:hunter2@127.0.0.1:1,127.0.0.1:2/x"},
    {"DATABASE_URL": "hunter2"},
    {"REDIS_URL": "redis://:hunter2@h:6379x/0"},
    {"REDIS_URL": "redis://:hunt/hunter2@127.0.0.1:1/0"},
    {"REDIS_URL": "redis://u:hunter2@127.0.0.1:1/nonsense"},
    {"REDIS_URL": "rediss://u:hunter2@127.0.0.1:1/0?ssl_ca_certs=/nowhere"},
    {"API_URI": "http://u:hunter2@127.0.0.1:1"},
    {"API_URI": "http://u:hunter2@127.0.0.1:port"},
    {"DATABASE_URL_FILE": "/nowhere/url"},
]


NOWHERE = {
    "DATABASE_URL": "postgresql://127.0.0.1:1/x",
    "REDIS_URL": "redis://127.0.0.1:1",
    "API_URI": "http://127.0.0.1:1",
}


@pytest.mark.parametrize("environ", BROKEN, ids=lambda environ: next(iter(environ.values()))[:50])
def test_broken_configuration_is_told_of_without_its_secrets(environ: dict[str, str], tmp_path: Path) -> None:
    try:
        checks = check_all(load_settings({**NOWHERE, "CERT_PATH": str(tmp_path), **environ}))
    except SettingsError as error:
        said = error.mistakes
        assert all(line.startswith(next(iter(environ))) for line in said)
    else:
        said = [check.detail for check in checks]
        assert not all(check.ok for check in checks)
    assert said
    assert "hunter2" not in "".join(said)


@pytest.mark.parametrize("role", ["ingress", "forwarder"])
def test_a_process_with_broken_configuration_ends_in_words_and_not_in_a_traceback(role: str, tmp_path: Path) -> None:
    environ = {"CERT_PATH": str(tmp_path), "PATH": os.environ["PATH"], "LOG_LEVEL": "debug", **NOWHERE, **BROKEN[0]}
    finished = subprocess.run(
        [sys.executable, "-m", role], env=environ, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert finished.returncode == 78
    assert re.fullmatch(r"DATABASE_URL: must be .*\n", finished.stderr)


@pytest.mark.parametrize("where", ["main thread", "another thread", "event loop"])
@pytest.mark.parametrize("log_format", ["json", "pretty"])
def test_a_crash_report_holds_no_secret(where: str, log_format: str) -> None:
    code = f"""
import asyncio, threading
from shared.log import configure, report_crashes
configure({log_format!r}, "debug", process="ingress")
report_crashes()
def crash():
    raise RuntimeError("redis://:hunter2@h:1 Bearer {DEMO_SECRET}")
async def in_loop():
    asyncio.get_running_loop().call_soon(crash)
    await asyncio.sleep(0.01)
if {where!r} == "another thread":
    threading.Thread(target=crash).start()
elif {where!r} == "event loop":
    asyncio.run(in_loop())
else:
    crash()
"""
    finished = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    said = finished.stdout + finished.stderr
    assert "RuntimeError" in said
    assert "[redacted]" in said
    assert "hunter2" not in said
    assert DEMO_SECRET not in said


def test_every_setting_that_holds_a_secret_may_be_in_a_file(tmp_path: Path) -> None:
    assert {"DATABASE_URL", "REDIS_URL"} <= set(FILE_SETTINGS)
    for name in ("DATABASE_URL", "REDIS_URL"):
        value = {"DATABASE_URL": "postgresql://u:p@h/d", "REDIS_URL": "redis://:p@h"}[name]
        (tmp_path / name).write_text(value + "\n")
        settings = load_settings({f"{name}_FILE": str(tmp_path / name)})
        assert getattr(settings, name.lower()) == value
        assert value not in repr(settings)


@pytest.mark.parametrize(
    "value",
    [
        f"Bearer {DEMO_SECRET}",
        {"headers": {"Authorization": f"Bearer {DEMO_SECRET}"}},
        [["deep", (f"key={DEMO_SECRET}",)]],
        ValueError(f"redis://u:hunter2@h {DEMO_SECRET}"),
        f"postgresql://u:{DEMO_SECRET}@h/d".encode(),
        {DEMO_SECRET: 1},
    ],
    ids=lambda value: type(value).__name__,
)
def test_redaction_goes_as_deep_as_a_value_does(value: object) -> None:
    shown = repr(redact_all(value))
    assert DEMO_SECRET not in shown
    assert "hunter2" not in shown
    assert "[redacted]" in shown


# TLS to Redis and PostgreSQL


def test_redis_over_tls_is_verified(least: LeastRights, tmp_path: Path) -> None:
    with TlsFront(tmp_path, least.redis.port) as front:
        base = f"rediss://relay:{REDIS_PASSWORD}@localhost:{front.port}/0"
        trusting = load_settings({"REDIS_URL": f"{base}?ssl_ca_certs={front.authority}"})
        assert check_redis(trusting).ok
        assert front.connections == 1
        distrusting = check_redis(load_settings({"REDIS_URL": base}))
        assert not distrusting.ok, "a certificate of an unknown authority is refused"
        wrong_name = load_settings(
            {"REDIS_URL": f"{base.replace('localhost', '127.0.0.1')}?ssl_ca_certs={front.authority}"}
        )
        assert not check_redis(wrong_name).ok, "and one of another name"


@pytest.mark.parametrize(
    ("options", "works"),
    [
        ("sslmode=verify-full&sslrootcert={authority}", True),
        ("sslmode=require", True),
        ("sslmode=verify-full&sslrootcert=/etc/ssl/certs/ca-certificates.crt", False),
        ("sslmode=disable", False),
    ],
)
def test_postgresql_over_tls(least: LeastRights, tmp_path: Path, options: str, works: bool) -> None:
    with TlsFront(tmp_path, least.postgres.port, postgres=True) as front:
        url = f"postgresql://relay:{DATABASE_PASSWORD}@localhost:{front.port}/postgres?"
        found = check_database(load_settings({"DATABASE_URL": url + options.format(authority=front.authority)}))
        assert found.ok == works, found.detail
        assert (front.connections > 0) == works or not works
