"""``python -m sandbox``: one message through the whole relay; busy ports; a verdict that is not always good."""

from __future__ import annotations

import os
import re
import signal
import smtplib
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from sandbox import __main__ as sandbox
from sandbox.processes import ServerProcess, accepts_connections, children_of, free_port
from sandbox.stack import DEMO_DOMAIN, DEMO_SECRET, ROOT
from tests.support.wire import simple

EXPECTED = {
    "from": f"hello@{DEMO_DOMAIN}",
    "name": "Zoë from the sandbox",
    "to": [{"name": "Jürgen Recipient", "email": "recipient@example.net"}],
    "subject": "Grüße — the relay works",
    "body": "<h1>Hello Jürgen</h1><p>this came by <b>SMTP</b>.</p>\r\n",
    "reply": f"support@{DEMO_DOMAIN}",
    "headers": {"X-Campaign": "sandbox"},
    "attachments": [
        {"filename": "Rechnung für Zoë.pdf", "content": "JVBERi0xLjQgZGVtbw==", "contentType": "application/pdf"}
    ],
}


@pytest.fixture
def busy() -> Iterator[dict[str, int]]:
    """Something else listens on every port that the sandbox prefers; name → port."""
    with ExitStack() as stack:
        for port in sandbox.PREFERRED.values():
            if not accepts_connections(port):
                taken = stack.enter_context(socket.socket())
                taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                taken.bind(("127.0.0.1", port))
                taken.listen()
        yield dict(sandbox.PREFERRED)


def once() -> str:
    """What ``make sandbox ONCE=1`` prints; it must end well."""
    found = subprocess.run(
        [sys.executable, "-m", "sandbox"],
        env={**os.environ, "ONCE": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert re.search(r"← 250 2\.0\.0 Message accepted: queued as [0-9a-f]{32}", found.stdout)
    assert "✓ the message arrived intact" in found.stdout
    assert found.stdout.rstrip().endswith("→ stopping everything")
    return found.stdout


def ports_of(printed: str) -> dict[str, int]:
    """The ports that a run used, by name."""
    replaced = re.findall(r"! port (\d+) \((\w+)\) is busy: using (\d+)", printed)
    assert all(sandbox.PREFERRED[name] == int(port) for port, name, _ in replaced)
    used = sandbox.PREFERRED | {name: int(instead) for _, name, instead in replaced}
    assert f"→ connecting to localhost:{used['submission']}," in printed
    return used


def test_once_ends_well_when_the_message_arrived_and_names_the_ports_it_replaced(busy: dict[str, int]) -> None:
    used = ports_of(once())
    assert used.keys() == busy.keys()
    assert not set(used.values()) & set(busy.values())


def test_two_runs_at_once_keep_out_of_each_others_way_and_a_later_one_finds_all_as_before() -> None:
    """Both look for ports before either has taken one."""
    with ThreadPoolExecutor(2) as both:
        first, second = (set(ports_of(future.result()).values()) for future in [both.submit(once), both.submit(once)])
    assert not first & second
    assert not [port for port in first | second if accepts_connections(port)]
    once()


def test_until_ctrl_c_it_takes_more_mail_and_then_stops_all_it_began(tmp_path: Path) -> None:
    process = ServerProcess(
        [sys.executable, "-m", "sandbox"],
        log=tmp_path / "sandbox.log",
        environ={**os.environ, "ONCE": "", "PYTHONPATH": str(ROOT)},
        stop_signal=signal.SIGINT,
    )
    process.start()
    try:
        process.wait_ready(lambda: "Ctrl-C stops everything." in process.tail(100), timeout=60)
        printed = process.tail(200)
        ports = [int(port) for port in re.findall(r"(?:localhost|127\.0\.0\.1):(\d+)", printed)]
        submission = int(re.search(r"STARTTLS +localhost:(\d+)", printed)[1])  # type: ignore[index]
        for client in ("swaks ", "curl ", "python3 -c"):
            assert client in printed
        # The Python line that is printed for copying, run as it stands.
        line = re.search(r'python3 -c "(.*?)"\n', printed, re.S)
        assert line
        subprocess.run([sys.executable, "-c", line[1].replace("\\\n", "")], check=True, timeout=60)
        with smtplib.SMTP("localhost", submission, timeout=30) as client:
            client.starttls()
            client.login("plunk", DEMO_SECRET)
            client.sendmail(f"hello@{DEMO_DOMAIN}", ["b@x.example"], simple(sender=f"hello@{DEMO_DOMAIN}"))
        assert process.stop(timeout=60) == 0
        assert not [port for port in set(ports) if accepts_connections(port)], "everything it began is stopped"
    finally:
        process.stop()


def test_a_reader_who_goes_away_leaves_no_server_behind() -> None:
    """``make sandbox | head``."""
    with subprocess.Popen([sys.executable, "-m", "sandbox"], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        while "starting the ingress" not in process.stdout.readline():
            assert process.poll() is None
        servers = children_of(process.pid)
        assert len(servers) >= 3
        process.stdout.close()
        process.wait(60)
    assert not [pid for pid in servers if Path(f"/proc/{pid}").exists()]


@pytest.mark.parametrize("name", [*EXPECTED, "attachments' content"])
def test_whatever_arrives_otherwise_is_told(name: str) -> None:
    assert sandbox.differences(EXPECTED) == []
    changed = {**EXPECTED, name: "changed"}
    if name not in EXPECTED:
        changed = {**EXPECTED, "attachments": [{**EXPECTED["attachments"][0], "content": "AAAA"}]}  # type: ignore[dict-item]
    assert [line.partition(":")[0] for line in sandbox.differences(changed)] == [name.partition("'")[0]]


def test_a_message_that_did_not_arrive_intact_is_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ONCE", "1")
    monkeypatch.setattr(sandbox, "PREFERRED", {name: free_port() for name in sandbox.PREFERRED})
    monkeypatch.setattr(sandbox, "differences", lambda body: ["subject: 'other'"])
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        assert sandbox.main() == 1
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
    assert "✗ not as it was sent: subject: 'other'" in capsys.readouterr().out
