"""Every kind of trouble with the API after the 250, side by side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import pytest

from sandbox.processes import wait_until
from sandbox.stack import Stack
from tests.faults.conftest import Settle, fresh_relay
from tests.support.load import send_many

TROUBLE: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "API slow": ("latency", {"seconds": 1.5}),
    "API slower than the timeout, and does the work all the same": ("latency", {"seconds": 4}),
    "API hangs past the timeout": ("hang", {"seconds": 60}),
    "API drops the connection before the work": ("drop", {}),
    "API drops the connection after the work": ("drop_after", {}),
    "API drops the connection after the work, longer than a blip": ("drop_after", {"times": 30}),
    "API says 429 with Retry-After": ("status", {"status": 429, "retry_after": 1}),
    "API says 500 in a burst": ("status", {"status": 500}),
    "API says 502 with a page of HTML": ("status", {"status": 502}),
    "API says 503": ("status", {"status": 503}),
    "API says 504": ("status", {"status": 504}),
    "API says 408": ("status", {"status": 408}),
    "API says 425": ("status", {"status": 425}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Troubled:
    """A relay, and for each trouble the subjects that meet it."""

    stack: Stack
    given: dict[str, list[str]]


@pytest.fixture(scope="module")
def troubled(services: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Troubled]:
    """One relay that meets every trouble at once, each with mail of its own: they wait for their retries together."""
    services.api.reset()
    stack = fresh_relay(services, tmp_path_factory, FORWARD_TIMEOUT="2")
    given: dict[str, list[str]] = {}
    try:
        stack.start_ingress()
        for number, (name, (kind, more)) in enumerate(TROUBLE.items()):
            prefix = f"t{number}-"
            stack.api.fail(kind, subject=f"{stack.queue_name}-{prefix}", **{"times": 8, **more})
            given[name] = send_many(stack, 5, prefix=prefix)
        stack.start_forwarder()
        yield Troubled(stack=stack, given=given)
    finally:
        stack.stop()


@pytest.mark.parametrize("name", TROUBLE)
def test_an_api_in_trouble(troubled: Troubled, books: Settle, name: str) -> None:
    subjects = troubled.given[name]
    wait_until(
        lambda: set(subjects) <= {mail["body"]["subject"] for mail in troubled.stack.api.sent()},
        timeout=90,
        what=f"mail that met: {name}",
        poll=0.1,
    )
    wait_until(lambda: not troubled.stack.queued(), timeout=90, what="an empty store", poll=0.1)
    books(name, troubled.stack, subjects, prefix=subjects[0].removesuffix("0"))
