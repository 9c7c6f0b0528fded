"""The Plunk API as the relay sees it: one call, ``POST /v1/send``, and what came back, as a value.

Nothing here judges an answer (``shared.verdict`` and ``ingress.preflight`` do) and no answer is an exception: that the
API did not answer is itself an answer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

from shared.deadline import DeadlineAdapter, deadline
from shared.http_library import requests
from shared.log import redact

MAX_RETRY_AFTER: Final = 3600.0
"""Longest Retry-After that is believed, in seconds."""

SEND_PATH: Final = "/v1/send"
"""The one call's path under API_URI."""

CONNECT_SHARE: Final = 3
"""The share of a call's time that one attempt to connect may take: one third."""

MAX_MESSAGE: Final = 300
"""Longest error message that is kept, in characters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """A project's rate limit as the RateLimit-* headers of an answer tell it."""

    limit: float
    """Requests that may come at once when none has come for a while."""
    remaining: float
    """Requests that may come at once now."""
    reset: float
    """Seconds until ``remaining`` is ``limit`` again."""

    @property
    def per_second(self) -> float | None:
        """The rate at which ``remaining`` grows; None where the headers do not say."""
        grows = self.limit - self.remaining
        return grows / self.reset if grows > 0 and self.reset > 0 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One HTTP answer of the API, read as PLUNK's error envelope where it is one."""

    status: int
    code: str = ""
    """``error.code``, "" where there is none (413, a proxy's HTML page)."""
    message: str = ""
    """``error.message`` on one line, or a generic text where the body is not the API's envelope."""
    fields: tuple[str, ...] = ()
    """``error.errors[].field`` of a 422."""
    original_status: int | None = None
    """``error.details.originalStatusCode`` of a 409: what the first request with this key ended in; None = running."""
    retry_after: float | None = None
    """Seconds, from Retry-After."""
    rate: RateLimit | None = None
    """From RateLimit-Limit, -Remaining and -Reset, where all three are there."""

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300


@dataclass(frozen=True, slots=True, kw_only=True)
class NoAnswer:
    """The API did not answer (refused, timeout, reset, TLS, DNS). The request may or may not have arrived."""

    cause: str
    """The exception's class name; never its text, which may hold addresses."""
    was_sent: bool = True
    """False when the connection was never made, so the API cannot have seen the request."""


class OneUrlAdapter(DeadlineAdapter):
    """An adapter that is used for one URL only, so that what requests works out for each call is worked out once.

    Of the 470 µs of a ``Session.post`` 210 are left: no cookies are kept (all projects would share them), and the
    connection pool, the TLS settings and the request's path are those of the first call.
    """

    def __init__(self, url: str, *, connections: int) -> None:
        super().__init__(pool_connections=1, pool_maxsize=connections, max_retries=0)
        parts = urlsplit(url)
        self._path = parts.path + (f"?{parts.query}" if parts.query else "")
        self._pool: Any = None

    def get_connection_with_tls_context(
        self, request: requests.PreparedRequest, verify: Any, proxies: Any = None, cert: Any = None
    ) -> Any:
        if self._pool is None:
            pool = super().get_connection_with_tls_context(request, verify, proxies=proxies, cert=cert)
            super().cert_verify(pool, request.url, verify, cert)  # type: ignore[no-untyped-call]
            self._pool = pool
        return self._pool

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Done with the pool."""

    def request_url(self, request: requests.PreparedRequest, proxies: Any) -> str:
        return self._path

    def build_response(self, req: requests.PreparedRequest, resp: Any) -> requests.Response:
        response = requests.Response()
        response.status_code = resp.status
        response.headers = requests.structures.CaseInsensitiveDict(resp.headers)
        response.raw = resp
        response.request = req
        return response


class PlunkApi:
    """A client of one API over kept-alive connections; safe to use from ``connections`` threads at once.

    Sends nothing by itself: no redirect is followed and no retry is made here.
    """

    def __init__(self, base_url: str, *, connections: int) -> None:
        self._url = base_url + SEND_PATH
        self._health_url = f"{base_url}/health"
        self._session = requests.Session()
        # Proxy and .netrc look-ups cost more than the rest of a call, and .netrc would replace our key.
        self._session.trust_env = False
        health_adapter = DeadlineAdapter(pool_connections=1, pool_maxsize=1, max_retries=0)
        self._session.mount("http://", health_adapter)
        self._session.mount("https://", health_adapter)
        self._adapter = OneUrlAdapter(self._url, connections=connections)
        self._template = requests.Request("POST", self._url, headers={"Content-Type": "application/json"}).prepare()

    def send(
        self, body: bytes, *, secret: str, timeout: float, idempotency_key: str | None = None
    ) -> Answer | NoAnswer:
        """``POST /v1/send`` with ``body`` (JSON), within ``timeout`` seconds from the connect to the answer's end.

        Only the look-up of the host's name is not ours to bound: the resolver has its own limits (resolv.conf).
        """
        request = self._template.copy()
        request.body = body
        request.headers["Content-Length"] = str(len(body))
        request.headers["Authorization"] = f"Bearer {secret}"
        if idempotency_key is not None:
            request.headers["Idempotency-Key"] = idempotency_key
        try:
            with deadline(timeout):
                # A host may have several addresses, each of which is tried for so long.
                response = self._adapter.send(request, timeout=(timeout / CONNECT_SHARE, timeout))
                return read_answer(response.status_code, response.headers, response.content)
        except requests.ConnectTimeout as error:
            return NoAnswer(cause=type(error).__name__, was_sent=False)
        except (requests.RequestException, ValueError) as error:
            # ValueError: what cannot stand in a header, as a secret with a line break.
            return NoAnswer(cause=type(error).__name__)

    def health(self, *, timeout: float) -> Answer | NoAnswer:
        """``GET /health``: needs no key."""
        try:
            with deadline(timeout):
                response = self._session.get(self._health_url, timeout=timeout, allow_redirects=False)
        except requests.RequestException as error:
            return NoAnswer(cause=type(error).__name__)
        return read_answer(response.status_code, response.headers, response.content)

    def close(self) -> None:
        self._session.close()
        self._adapter.close()


def read_answer(status: int, headers: Any, content: bytes) -> Answer:
    """The answer of a status, case-insensitive headers and a body. Never raises: a body may be anything."""
    if 200 <= status < 300:
        return Answer(status=status, rate=_rate(headers))
    error: dict[str, Any] = {}
    try:
        parsed = orjson.loads(content)
        if isinstance(parsed, dict) and isinstance(parsed.get("error"), dict):
            error = parsed["error"]
    except orjson.JSONDecodeError:
        pass
    details = error.get("details")
    original = details.get("originalStatusCode") if isinstance(details, dict) else None
    errors = error.get("errors")
    return Answer(
        status=status,
        code=_text(error.get("code")),
        message=_text(error.get("message")) or f"the API answered {status}",
        fields=tuple(_text(item.get("field")) for item in errors if isinstance(item, dict))
        if isinstance(errors, list)
        else (),
        original_status=original if isinstance(original, int) and not isinstance(original, bool) else None,
        retry_after=_seconds(headers.get("Retry-After")),
        rate=_rate(headers),
    )


def _rate(headers: Any) -> RateLimit | None:
    if "RateLimit-Remaining" not in headers:
        return None
    limit, remaining, reset = (_seconds(headers.get(f"RateLimit-{name}")) for name in ("Limit", "Remaining", "Reset"))
    if limit is None or remaining is None or reset is None:
        return None
    return RateLimit(limit=limit, remaining=remaining, reset=reset)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        return ""
    # An API that quotes the key in its words must not bring it into a reply, a log or a dead letter.
    return redact("".join(c if c.isprintable() else " " for c in value))[:MAX_MESSAGE]


def _seconds(value: Any) -> float | None:
    """Retry-After in seconds; the HTTP-date form, which the API does not use, counts as not given."""
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER) if math.isfinite(seconds) else None
