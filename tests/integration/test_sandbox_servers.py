"""The embedded servers: crashes, restarts on the same port, and an installation that the database cannot reach."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox import postgres_server
from sandbox.postgres_server import PostgresServer
from sandbox.processes import LISTENING_PORTS, ServerFailed, free_port
from sandbox.redis_server import RedisServer
from sandbox.stack import ROOT, Role


def test_redis_keeps_what_it_acknowledged_over_a_kill(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        server.client().set("key", "value")
        url = server.url
        server.kill()
        server.start()
        assert server.url == url
        assert server.client().get("key") == b"value"
        persistence = {name: server.client().config_get(name)[name] for name in ("appendonly", "appendfsync", "save")}
        assert persistence == {"appendonly": "yes", "appendfsync": "always", "save": ""}


def test_postgres_comes_back_after_a_kill(tmp_path: Path) -> None:
    with PostgresServer(tmp_path / "postgres") as server:
        server.execute("INSERT INTO projects VALUES ('p', 'P', 'pk_p', 'sk_p')")
        server.kill()
        server.start()
        assert server.execute("SELECT secret FROM projects").strip() == "sk_p"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root hands the database to another user")
def test_root_may_keep_the_venv_where_nobody_can_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_server, "readable_by_others", lambda path: False)
    with PostgresServer(tmp_path / "postgres") as server:
        assert server.execute("SELECT count(*) FROM projects").strip() == "0"


def test_a_role_that_starts_again_is_heard_behind_whatever_its_log_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    role = Role("http.server", tmp_path, {}, "--bind", "127.0.0.1", str(free_port()))
    role.process.log.write_text("Email relayed: a@example.com → b@x.example\n" * 200, "utf-8")
    try:
        role.start(ready_text="Serving HTTP on")
        before = role.output()
        role.process.kill()
        role.start(ready_text="Serving HTTP on")
        assert role.output().removeprefix(before).startswith("Serving HTTP on"), "not what the one before said"
    finally:
        role.process.kill()


def test_a_free_port_is_none_that_an_outgoing_connection_may_take() -> None:
    assert free_port() in LISTENING_PORTS


def test_a_port_is_given_to_one_process_only(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = free_port()
    monkeypatch.setattr("sandbox.processes.LISTENING_PORTS", [ours])
    monkeypatch.setattr("sandbox.processes.PORT_TRIES", 1)
    with pytest.raises(ServerFailed, match="no free port"):
        free_port()
    code = f"import sandbox.processes as p; p.LISTENING_PORTS, p.PORT_TRIES = [{ours}], 1; p.free_port()"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "no free port" in found.stderr
