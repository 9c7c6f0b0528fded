"""What an operator runs: --check, wrong settings, probes and metrics, the Procfile."""

from __future__ import annotations

import os
import signal
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox.processes import ServerProcess, accepts_connections, free_port, wait_until
from sandbox.stack import ROOT, Stack
from shared.supervisor import PARENT_PID
from tests.support.wire import Wire, simple


def run(*command: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *command],
        env={"PATH": os.environ["PATH"], **environ},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("role", ["ingress", "forwarder"])
def test_check_is_green_for_a_good_relay(relay: Stack, role: str) -> None:
    found = run(role, "--check", **relay.environ)
    assert found.returncode == 0, found.stdout + found.stderr
    rows = {line.split()[0]: line.split()[1] for line in found.stdout.splitlines()}
    expected = {"configuration": "ok", "redis": "ok", "database": "ok", "api": "ok"}
    assert rows == (expected | {"certificate": "ok"} if role == "ingress" else expected)


@pytest.mark.parametrize("role", ["ingress", "forwarder"])
def test_check_names_what_is_down(role: str, tmp_path: Path) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    environ = {"REDIS_URL": f"redis://:pw-hunter2@{nowhere}", "DATABASE_URL": f"postgresql://u:pw-hunter2@{nowhere}/x"}
    found = run(role, "--check", API_URI=f"http://{nowhere}", CERT_PATH=str(tmp_path), **environ)
    assert found.returncode == 1
    assert found.stdout.count("FAIL") == 3
    assert "hunter2" not in found.stdout + found.stderr


@pytest.mark.parametrize("role", ["ingress", "forwarder"])
def test_wrong_settings_are_one_line_each(role: str) -> None:
    found = run(role, MAX_RECIPIENTS="0", PORT_SECURE="587", API_URI="nope")
    assert found.returncode == 78
    assert {line.partition(":")[0] for line in found.stderr.splitlines()} == {"MAX_RECIPIENTS", "API_URI"}


@pytest.mark.parametrize("role", ["ingress", "forwarder"])
def test_check_lists_wrong_settings_and_looks_no_further(role: str) -> None:
    found = run(role, "--check", MAX_RECIPIENTS="0", DATABASE_URL="mysql://u:pw-hunter2@x/y")
    assert found.returncode == 78
    rows = [line.split(maxsplit=3)[:3] for line in found.stdout.splitlines()]
    assert rows == [["configuration", "FAIL", "MAX_RECIPIENTS:"], ["configuration", "FAIL", "DATABASE_URL:"]]
    assert "hunter2" not in found.stdout + found.stderr


def test_require_tls_and_durability_refuse_to_start(plain_relay: Stack) -> None:
    ports = {"PORT_SUBMISSION": str(free_port()), "PORT_SECURE": str(free_port())}
    found = run("ingress", **{**plain_relay.environ, **ports, "REQUIRE_TLS": "true"})
    assert (found.returncode, found.stderr.splitlines()[-1].partition(":")[0]) == (78, "REQUIRE_TLS")
    client = plain_relay.redis.client()
    client.config_set("appendfsync", "everysec")
    try:
        found = run("ingress", **{**plain_relay.environ, **ports, "REQUIRE_DURABLE_REDIS": "true"})
        assert found.returncode == 78
        assert "appendfsync is everysec, must be always" in found.stderr
    finally:
        client.config_set("appendfsync", "always")


def test_a_busy_port_is_named(plain_relay: Stack) -> None:
    found = run("ingress", **plain_relay.environ)
    assert found.returncode == 78
    assert f"Port {plain_relay.port_submission}: already in use" in found.stderr


def test_honcho_runs_the_procfile(own_relay: Stack, tmp_path: Path) -> None:
    own_relay.start_services()
    honcho = ServerProcess(
        [sys.executable, "-m", "honcho", "-f", str(ROOT / "Procfile"), "-d", str(ROOT), "start"],
        log=tmp_path / "honcho.log",
        environ={**own_relay.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stop_signal=signal.SIGTERM,
    )
    honcho.start()
    try:
        honcho.wait_ready(lambda: "Forwarder started" in honcho.tail(100) and "listening on port" in honcho.tail(100))
        with Wire(own_relay.port_submission) as wire:
            wire.start_tls(ssl.create_default_context(cafile=str(own_relay.certificates / "fullchain.pem")))
            wire.login()
            assert wire.message(simple(subject="by honcho")).startswith("250")
        wait_until(lambda: own_relay.api.sent(), timeout=30, what="the mail")
        assert own_relay.api.sent()[0]["body"]["subject"] == "by honcho"
        honcho.stop()
        wait_until(lambda: not accepts_connections(own_relay.port_submission), timeout=30, what="the end of both roles")
    finally:
        honcho.stop()


def test_several_ingress_processes_share_the_port(tmp_path: Path) -> None:
    with Stack(tmp_path, tls=False, INGRESS_PROCESSES="2") as stack:
        assert stack.ingress.output().count(f"listening on port {stack.port_submission}") >= 1
        for number in range(10):
            with Wire(stack.port_submission) as wire:
                wire.login()
                assert wire.message(simple(subject=f"m{number}")).startswith("250")
        wait_until(lambda: len(stack.api.sent()) == 10, timeout=30, what="ten mails")
        assert stack.ingress.process.stop() == 0


@pytest.mark.parametrize("child", [("ingress", "--child"), ("forwarder", "worker")], ids=" ".join)
def test_a_child_whose_parent_was_killed_at_once_ends_by_itself(own_relay: Stack, child: tuple[str, str]) -> None:
    own_relay.start_services()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    environ = {**os.environ, **own_relay.environ, PARENT_PID: str(gone.pid)}
    found = subprocess.run([sys.executable, "-m", *child], env=environ, cwd=ROOT, timeout=60, check=False)
    assert found.returncode == 0


def test_ingress_processes_end_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    with Stack(tmp_path, tls=False, INGRESS_PROCESSES="2") as stack:
        children = stack.ingress.process.children()
        assert len(children) == 2
        stack.ingress.process.kill()
        wait_until(lambda: not any(is_alive(pid) for pid in children), timeout=20, what="the children's end")
        assert not accepts_connections(stack.port_submission)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
