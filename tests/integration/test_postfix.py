"""Postfix as a smarthost client with SASL: an instance of its own on loopback, in a temporary directory."""

from __future__ import annotations

import os
import pwd
import smtplib
import subprocess
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from sandbox.processes import accepts_connections, free_port, wait_until
from sandbox.stack import DEMO_SECRET, Stack
from tests.integration.test_clients import MESSAGES, assert_arrived
from tests.support.requirements import requires_program

MASTER = """
127.0.0.1:{port} inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
smtp unix - - n - - smtp
error unix - - n - - error
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
proxymap unix - - n - - proxymap
tlsmgr unix - - n 1000? 1 tlsmgr
postlog unix-dgram n - n - 1 postlogd
"""

MAIN = """
compatibility_level = 3.6
queue_directory = {root}/spool
data_directory = {root}/data
mail_owner = postfix
setgid_group = postdrop
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = client.example
mydestination =
mynetworks = 127.0.0.0/8
alias_maps =
local_recipient_maps =
smtp_host_lookup = native
smtp_dns_support_level = disabled
relayhost = [localhost]:{relay}
smtp_sasl_auth_enable = yes
smtp_sasl_security_options = noanonymous
smtp_sasl_tls_security_options = noanonymous
smtp_sasl_password_maps = static:plunk:{secret}
smtp_tls_security_level = encrypt
maillog_file = {root}/maillog
maillog_file_prefixes = {root}
"""


@pytest.fixture(scope="module")
def postfix(relay_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Port of a Postfix that hands all mail to the relay."""
    program = requires_program("postfix")
    if os.geteuid() != 0:
        pytest.skip("Postfix starts as root only")
    root = tmp_path_factory.mktemp("postfix")
    for folder in (root, *root.parents):
        if folder.stat().st_uid == 0 and not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o011)
    config, port = root / "etc", free_port()
    for name in ("etc", "spool", "data"):
        (root / name).mkdir()
    os.chown(root / "data", pwd.getpwnam("postfix").pw_uid, -1)
    values = {"root": root, "relay": relay_stack.port_submission, "secret": DEMO_SECRET, "port": port}
    (config / "main.cf").write_text(MAIN.format(**values))
    (config / "master.cf").write_text(MASTER.format(**values))
    started = subprocess.run([program, "-c", str(config), "start"], capture_output=True, text=True, check=False)
    try:
        assert started.returncode == 0, started.stderr + log_of(root)
        wait_until(lambda: accepts_connections(port), timeout=30, what="Postfix")
        yield port
    finally:
        subprocess.run([program, "-c", str(config), "stop"], capture_output=True, check=False)


def log_of(root: Path) -> str:
    return (root / "maillog").read_text("utf-8", "replace") if (root / "maillog").exists() else ""


@MESSAGES
def test_postfix_relays_through_us(
    relay: Stack, postfix: int, make: Callable[[], EmailMessage], expected: dict[str, Any]
) -> None:
    with smtplib.SMTP("127.0.0.1", postfix, timeout=30) as client:
        client.send_message(make())
    assert_arrived(relay, expected)
