"""The whole corpus over one connection through the relay: the API gets what lies beside each file."""

from __future__ import annotations

import re
import smtplib
from typing import Any

from sandbox.processes import wait_until
from sandbox.stack import DEMO_DOMAIN, DEMO_SECRET, Stack
from tests.support.corpus import Example, load, names, shape


def is_verified(example: Example) -> bool:
    return set(example.expected.get("from_domains", [DEMO_DOMAIN])) == {DEMO_DOMAIN}


def test_the_corpus_arrives_as_it_was_written(plain_relay: Stack) -> None:
    queued: dict[str, Example] = {}
    examples = [load(name) for name in names()]
    with smtplib.SMTP("localhost", plain_relay.port_submission, timeout=60) as client:
        client.ehlo()
        client.login("plunk", DEMO_SECRET)
        for example in examples:
            assert client.mail("a@example.com")[0] == 250
            for recipient in example.recipients:
                assert client.rcpt(recipient)[0] == 250
            code, said = client.data(example.raw)
            reply = f"{code} {said.decode()}"
            if example.refusal:
                assert reply == example.refusal, example.name
            elif not is_verified(example):
                assert reply.startswith("550 5.7.1 Sender domain is not verified"), (example.name, reply)
            elif example.expected.get("drop"):
                assert reply.startswith("250 2.0.0 Message checked, not sent"), (example.name, reply)
            else:
                found = re.fullmatch(r"250 2\.0\.0 .*queued as (\S+)", reply)
                assert found, (example.name, reply)
                queued[example.expected.get("idempotency_key") or found[1]] = example
    assert len(queued) > 150
    wait_until(lambda: len(plain_relay.api.sent()) >= len(queued), timeout=60, what="all of the corpus", poll=0.2)
    wait_until(lambda: not plain_relay.queued(), timeout=30, what="an empty queue")
    arrived: dict[str, dict[str, Any]] = {}
    for mail in plain_relay.api.sent():
        assert mail["idempotency_key"] not in arrived
        arrived[mail["idempotency_key"]] = shape(mail["body"])
    assert set(arrived) == set(queued)
    different = {
        example.name: (arrived[key], example.expected["call"])
        for key, example in queued.items()
        if arrived[key] != example.expected["call"]
    }
    assert not different, "\n".join(
        f"{name}: {key}: {got.get(key)!r} is not {expected.get(key)!r}"
        for name, (got, expected) in different.items()
        for key in {*got, *expected}
        if got.get(key) != expected.get(key)
    )
