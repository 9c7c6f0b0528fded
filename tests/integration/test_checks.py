"""``--check`` row by row: each dependency as it should be, and in each way in which it may be wrong."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from sandbox.processes import free_port
from sandbox.stack import Stack
from shared.checks import Check, check_api, check_database, check_redis, print_checks
from shared.settings import load_settings


class NotPlunk(BaseHTTPRequestHandler):
    """A web site: says 200 to everything, or redirects."""

    def answer(self) -> None:
        moved = self.server.server_name == "moved"  # type: ignore[attr-defined]
        self.send_response(301 if moved else 200)
        if moved:
            self.send_header("Location", "https://api.example.com/")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"hi")

    do_GET = do_POST = answer

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(params=["site", "moved"])
def web_site(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    server = HTTPServer(("127.0.0.1", 0), NotPlunk)
    server.server_name = request.param
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield request.param, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def api(uri: str) -> Check:
    return check_api(load_settings({"API_URI": uri}))


def test_the_api_is_known_by_its_own_words(services: Stack) -> None:
    found = api(services.api.url)
    assert (found.ok, found.detail) == (True, f"{services.api.url} is the Plunk API")
    assert services.api.counts()["statuses"] == {"401": 1}, "asked without a key, so nothing can come of it"


def test_a_web_site_that_says_200_is_not_taken_for_the_api(web_site: tuple[str, str]) -> None:
    kind, url = web_site
    found = api(url)
    assert not found.ok
    assert ("redirects to" if kind == "moved" else "is API_URI right?") in found.detail


def test_an_api_at_another_path_is_not_taken_for_the_api(services: Stack) -> None:
    assert api(f"{services.api.url}/v1").detail == f"{services.api.url}/v1/health answers 404"


def test_an_api_that_does_not_answer() -> None:
    found = api(f"http://127.0.0.1:{free_port()}")
    assert not found.ok
    assert "does not answer" in found.detail


def test_redis_as_it_should_be_and_as_it_should_not(services: Stack) -> None:
    client = services.redis.client()
    lax = load_settings({"REDIS_URL": services.redis.url})
    strict = load_settings({"REDIS_URL": services.redis.url, "REQUIRE_DURABLE_REDIS": "true"})
    good = check_redis(lax)
    assert (good.ok, good.is_warning) == (True, False)
    client.config_set("appendfsync", "everysec")
    try:
        for settings, ok in ((lax, True), (strict, False)):
            found = check_redis(settings)
            assert (found.ok, found.is_warning) == (ok, True)
            assert found.detail == "accepted mail can be lost: appendfsync is everysec, must be always"
    finally:
        client.config_set("appendfsync", "always")
    client.execute_command("REPLICAOF", "127.0.0.1", "1")
    try:
        assert check_redis(lax) == Check(name="redis", ok=False, detail="takes no write: ReadOnlyError")
    finally:
        client.execute_command("REPLICAOF", "NO", "ONE")
    nowhere = check_redis(load_settings({"REDIS_URL": f"redis://127.0.0.1:{free_port()}"}))
    assert nowhere == Check(name="redis", ok=False, detail="takes no write: ConnectionError")


def test_a_database_as_it_should_be_and_as_it_should_not(services: Stack) -> None:
    url = services.postgres.url
    assert check_database(load_settings({"DATABASE_URL": url})).ok
    services.postgres.execute("CREATE DATABASE empty")
    services.postgres.execute("CREATE ROLE stranger LOGIN")
    for wrong, cause in (
        (url.removesuffix("/postgres") + "/empty", "UndefinedTableError"),
        (url.removesuffix("/postgres") + "/missing", "InvalidCatalogNameError"),
        (url.replace("postgres@", "stranger@"), "InsufficientPrivilegeError"),
        (f"postgresql://postgres@127.0.0.1:{free_port()}/postgres", "ConnectionRefusedError"),
    ):
        found = check_database(load_settings({"DATABASE_URL": wrong}))
        assert found == Check(name="database", ok=False, detail=f"cannot read projects and domains: {cause}")


@pytest.mark.parametrize(
    ("checks", "code", "printed"),
    [
        ([Check(name="a", ok=True, detail="x")], 0, "a  ok    x\n"),
        ([Check(name="a", ok=True, detail="x", is_warning=True)], 0, "a  WARN  x\n"),
        (
            [Check(name="a", ok=False, detail="x"), Check(name="bc", ok=True, detail="y")],
            1,
            "a   FAIL  x\nbc  ok    y\n",
        ),
    ],
)
def test_the_table_and_its_exit_code(
    checks: list[Check], code: int, printed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert print_checks(checks) == code
    assert capsys.readouterr().out == printed
