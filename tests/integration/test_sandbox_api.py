"""The stand-in API keeps the contract: what the other tests rest on."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from sandbox.processes import wait_until
from sandbox.stack import DEMO_DOMAIN, DEMO_PROJECT, DEMO_SECRET, UNVERIFIED_DOMAIN, Stack


@pytest.fixture
def api(services: Stack) -> Stack:
    services.api.reset()
    return services


def call(stack: Stack, *, key: str | None = None, secret: str = DEMO_SECRET, **fields: Any) -> requests.Response:
    body = {"to": ["b@example.net"], "from": f"a@{DEMO_DOMAIN}", "subject": "s", "body": "<p>b</p>", **fields}
    headers = {"Authorization": f"Bearer {secret}"} | ({"Idempotency-Key": key} if key is not None else {})
    return requests.post(f"{stack.api.url}/v1/send", json=body, headers=headers, timeout=30)


def original_status(response: requests.Response) -> int | None:
    assert response.status_code == 409
    assert response.json()["error"]["code"] == "IDEMPOTENCY_KEY_REUSED"
    status: int | None = response.json()["error"]["details"]["originalStatusCode"]
    return status


def test_a_mail_is_recorded_whole(api: Stack) -> None:
    answer = call(api, key="m1", headers={"X-A": "1"})
    assert answer.status_code == 200
    assert [email["contact"]["email"] is not None for email in answer.json()["data"]["emails"]] == [True]
    (mail,) = api.api.sent()
    assert (mail["project"], mail["idempotency_key"]) == (DEMO_PROJECT, "m1")
    assert mail["body"]["headers"] == {"X-A": "1"}


def test_an_empty_to_checks_everything_and_sends_nothing(api: Stack) -> None:
    assert call(api, to=[]).json()["data"]["emails"] == []
    assert call(api, to=[], **{"from": f"a@{UNVERIFIED_DOMAIN}"}).status_code == 403
    assert call(api, to=[], subject="").status_code == 422
    assert api.api.sent() == []
    assert api.api.counts()["preflights"] == 3


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"secret": "sk_wrong"}, 401, "INVALID_API_KEY"),
        ({"secret": f"pk_{DEMO_PROJECT}"}, 401, "INVALID_API_KEY"),
        ({"secret": ""}, 401, "MISSING_AUTH"),
        ({"key": "k" * 256}, 400, "BAD_REQUEST"),
        ({"subject": ""}, 422, "VALIDATION_ERROR"),
        ({"from": f"a@{UNVERIFIED_DOMAIN}"}, 403, "FORBIDDEN"),
        ({"from": "a@elsewhere.example"}, 403, "FORBIDDEN"),
        # The order of the checks: each of these has two faults, and the earlier check answers.
        ({"secret": "sk_wrong", "subject": ""}, 401, "INVALID_API_KEY"),
        ({"from": f"a@{UNVERIFIED_DOMAIN}", "subject": ""}, 422, "VALIDATION_ERROR"),
    ],
)
def test_refusals(api: Stack, change: dict[str, Any], status: int, code: str) -> None:
    answer = call(api, **change)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert answer.json()["success"] is False
    assert api.api.sent() == []


def test_a_key_of_a_2xx_is_kept_and_scoped_to_its_project(api: Stack) -> None:
    api.add_project("sk_other", project_id="other", verified=["other.example"])
    assert call(api, key="k").status_code == 200
    assert original_status(call(api, key="k")) == 200
    assert call(api, key="k", secret="sk_other", **{"from": "a@other.example"}).status_code == 200
    assert len(api.api.sent()) == 2


def test_a_key_of_a_4xx_is_released(api: Stack) -> None:
    assert call(api, key="k", subject="").status_code == 422
    assert call(api, key="k").status_code == 200


def test_a_key_of_a_5xx_is_kept(api: Stack) -> None:
    api.api.fail("status_after", status=500, times=1)
    assert call(api, key="k").status_code == 500
    assert original_status(call(api, key="k")) == 500


def test_a_key_whose_request_still_runs_has_no_status_yet(api: Stack) -> None:
    api.api.fail("latency", seconds=3, times=1)
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(call, api, key="k")
        wait_until(lambda: api.api.counts()["requests"] == 1, timeout=10, what="the first request")
        assert original_status(call(api, key="k")) is None
        assert first.result().status_code == 200
    assert original_status(call(api, key="k")) == 200
    assert len(api.api.sent()) == 1


def test_a_killed_api_remembers_mails_and_keys(api: Stack) -> None:
    api.api.fail("status_after", status=500, times=1)
    call(api, key="five")
    call(api, key="two")
    api.api.process.kill()
    api.api.start()
    assert len(api.api.sent()) == 2
    assert original_status(call(api, key="five")) == 500
    assert original_status(call(api, key="two")) == 200
    api.api.reset()
    api.api.process.kill()
    api.api.start()
    assert api.api.sent() == [], "what was reset stays forgotten"


@pytest.mark.parametrize("kind", ["hang", "latency"])
def test_a_call_under_way_at_a_reset_leaves_nothing_behind(api: Stack, kind: str) -> None:
    api.api.fail(kind, seconds=2, times=1)
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(call, api, key="k")
        wait_until(lambda: api.api.counts()["requests"] == 1, timeout=10, what="the first request")
        api.api.reset()
        assert first.result().status_code == 200
    assert (api.api.sent(), api.api.counts()["statuses"], api.api.records.exists()) == ([], {}, False)
    assert call(api, key="k").status_code == 200, "not even its key"


def test_older_installations_ignore_the_key(api: Stack) -> None:
    api.api.options(ignore_keys=True)
    assert [call(api, key="k").status_code for _ in range(2)] == [200, 200]


def test_the_rate_limit_tells_when_to_come_back(api: Stack) -> None:
    api.api.options(rate_limit=True)
    refused = call(api, subject="")
    assert refused.status_code == 422
    assert refused.headers["RateLimit-Limit"] == "50", "a refused request has spent its token too"
    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(lambda _: call(api, to=[]), range(400)))
    limited = [answer for answer in answers if answer.status_code == 429]
    assert limited
    for answer in limited:
        assert answer.json()["error"]["code"] == "RATE_LIMIT_EXCEEDED"
        assert int(answer.headers["Retry-After"]) >= 1
        assert int(answer.headers["RateLimit-Reset"]) >= 1


@pytest.mark.parametrize(("kind", "sent"), [("drop", 0), ("drop_after", 1)])
def test_a_dropped_connection_before_and_after_the_work(api: Stack, kind: str, sent: int) -> None:
    api.api.fail(kind, times=1)
    with pytest.raises(requests.ConnectionError):
        call(api)
    assert len(api.api.sent()) == sent


def test_faults_of_sends_spare_preflights(api: Stack) -> None:
    api.api.fail("status", status=503, retry_after=7)
    assert call(api, to=[]).status_code == 200
    answer = call(api)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "7")
    assert answer.headers["Content-Type"].startswith("text/html"), "a proxy's page, not the API's envelope"
    api.api.clear_faults()
    assert call(api).status_code == 200


def test_the_inbox_shows_the_mail_and_runs_none_of_it(api: Stack) -> None:
    call(api, subject="<script>alert(1)</script>", body="<script>alert(2)</script>")
    page = requests.get(f"{api.api.url}/", timeout=30).text
    assert "&lt;script&gt;alert(1)" in page
    assert "<script" not in page
    assert "<iframe sandbox " in page
