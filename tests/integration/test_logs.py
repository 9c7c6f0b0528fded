"""The specification's sentences in the logs of a real relay, and one message id through a message's whole life."""

from __future__ import annotations

import json
import ssl
from typing import Any

import pytest

from sandbox.processes import wait_until
from sandbox.stack import DEMO_SECRET, Role, Stack
from tests.support.wire import Wire, simple


def lines(role: Role) -> list[dict[str, Any]]:
    """What a role has logged so far, a line each."""
    return [json.loads(line) for line in role.output().splitlines()]


def secure(stack: Stack) -> Wire:
    """A connection on the submission port that has done STARTTLS and authenticated."""
    context = ssl.create_default_context(cafile=str(stack.certificates / "fullchain.pem"))
    wire = Wire(stack.port_submission)
    wire.say("EHLO test")
    wire.say("STARTTLS")
    wire.socket = context.wrap_socket(wire.socket, server_hostname="localhost")
    wire._file = wire.socket.makefile("rb")
    assert wire.login().startswith("235")
    return wire


def test_each_port_is_told_in_the_specifications_words(relay: Stack) -> None:
    events = [line["event"] for line in lines(relay.ingress)]
    assert f"SMTP server listening on port {relay.port_secure} (secure=true)" in events
    assert f"SMTP server listening on port {relay.port_submission} (secure=false)" in events


def test_one_message_id_runs_through_every_line_of_a_messages_life(relay: Stack) -> None:
    relay.api.fail("status", status=500, times=1)  # One more line: it waits for another try.
    with secure(relay) as wire:
        reply = wire.message(simple(subject="followed"), sender="a@example.com", recipients=("followed@x.example",))
    message_id = reply.rsplit(" ", 1)[1]
    wait_until(lambda: relay.api.sent(), timeout=60, what="the mail")
    wait_until(
        lambda: "Email relayed: a@example.com → followed@x.example" in relay.forwarder.output(),
        timeout=20,
        what="its line",
    )
    life = [line for role in (relay.ingress, relay.forwarder) for line in lines(role) if "followed@x" in line["event"]]
    assert [line["event"] for line in life] == [
        "Email accepted: a@example.com → followed@x.example",
        "Email waits for another try: a@example.com → followed@x.example",
        "Email relayed: a@example.com → followed@x.example",
    ]
    assert {line["message_id"] for line in life} == {message_id}
    assert [line["process"] for line in life] == ["ingress", "forwarder", "forwarder"]
    everywhere = [line for role in (relay.ingress, relay.forwarder) for line in lines(role) if message_id in str(line)]
    assert everywhere == life, "and no line of its life is without its sentence"
    session = life[0]["session"]
    about_session = [line["event"] for line in lines(relay.ingress) if line.get("session") == session]
    assert about_session == ["Authenticated", "Email accepted: a@example.com → followed@x.example"]


def test_refusals_are_told_with_the_reply_and_the_cause(relay: Stack) -> None:
    relay.api.fail("status", scope="preflight", status=402, message="Billing limit reached", times=1)
    with secure(relay) as wire:
        assert wire.say("MAIL FROM:<a@unverified.example>").startswith("550")
        assert wire.message(simple(), recipients=("refused@x.example",)).startswith("554")
    # The lines of one turn of the event loop are written at its end, when the reply may have gone out already.
    wait_until(lambda: "→ refused@x.example" in relay.ingress.output(), timeout=20, what="its line")
    sender = next(line for line in lines(relay.ingress) if line["event"] == "Sender refused")
    assert "Sender domain is not verified or not associated with your account" in sender["reply"]
    assert sender["cause"] == "domain unverified.example"
    refused = next(line for line in lines(relay.ingress) if line["event"].endswith("→ refused@x.example"))
    assert refused["event"] == "Email refused: a@example.com → refused@x.example"
    assert refused["reply"] == "554 5.7.0 Transaction failed: Billing limit reached"
    assert refused["level"] == "warning"
    assert refused["message_id"]


def test_a_dead_letter_is_an_error_with_the_apis_words(relay: Stack) -> None:
    relay.api.fail("status", status=422, message="No such template", times=1)
    with secure(relay) as wire:
        message_id = wire.message(simple(), recipients=("dead@x.example",)).rsplit(" ", 1)[1]
    wait_until(lambda: "→ dead@x.example" in relay.forwarder.output(), timeout=20, what="its line")
    dead = next(line for line in lines(relay.forwarder) if line["event"].endswith("→ dead@x.example"))
    assert (dead["event"], dead["level"]) == ("Email is a dead letter: a@example.com → dead@x.example", "error")
    assert (dead["message_id"], dead["reason"]) == (message_id, "No such template")


@pytest.mark.parametrize("role", ["ingress", "forwarder"])
def test_no_line_holds_the_secret(relay: Stack, role: str) -> None:
    output = getattr(relay, role).output()
    assert output
    assert DEMO_SECRET not in output
