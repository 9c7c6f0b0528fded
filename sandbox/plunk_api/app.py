"""The stand-in API as a Starlette application: the contract under ``/v1``, the faults under ``/_control``, an inbox."""

from __future__ import annotations

import asyncio
import json
import math
import time
import uuid
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import asyncpg
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from sandbox.plunk_api.inbox import inbox_page
from sandbox.plunk_api.schema import complaints

MAX_BODY: Final = 50 * 1024**2
RATE: Final = 20.0
BURST: Final = 50.0


@dataclass(slots=True)
class Fault:
    """One kind of trouble, for ``times`` requests (-1 = until cleared) of the scope send, preflight or all.

    With ``subject``, only for calls whose subject begins so.
    """

    kind: str
    """``status``, ``drop`` (before the work), ``drop_after``, ``status_after``, ``hang`` (before), or ``latency``
    (of the work itself: the idempotency key counts as still running meanwhile)."""
    scope: str = "send"
    times: int = -1
    status: int = 503
    seconds: float = 0.0
    retry_after: int | None = None
    message: str = "Something went wrong"
    fields: list[str] = field(default_factory=list)
    """Fields that a forced 422 complains about."""
    subject: str = ""


@dataclass(slots=True)
class State:
    """All that the stand-in remembers. A reset begins another: calls under way go on with the one they began in."""

    sent: list[dict[str, Any]] = field(default_factory=list)
    keys: dict[tuple[str, str], int | None] = field(default_factory=dict)
    """(project, idempotency key) → status the first request ended in; None = still running."""
    buckets: dict[str, tuple[float, float]] = field(default_factory=dict)
    faults: deque[Fault] = field(default_factory=deque)
    requests: int = 0
    preflights: int = 0
    statuses: dict[int, int] = field(default_factory=dict)
    rate_limit: bool = False
    ignore_keys: bool = False


class Failure(Exception):
    """An answer in the API's error envelope."""

    def __init__(self, status: int, code: str, message: str, *, headers: dict[str, str] | None = None, **extra: Any):
        super().__init__(message)
        self.status, self.code, self.message, self.headers, self.extra = status, code, message, headers, extra

    def response(self) -> JSONResponse:
        error = {"code": self.code, "message": self.message, "statusCode": self.status, **self.extra}
        envelope = {"success": False, "error": error, "timestamp": _now()}
        return JSONResponse(envelope, self.status, headers=self.headers)


def make_app(database_url: str, *, records: Path | None = None) -> Starlette:
    """The application over Plunk's database. With ``records`` what was sent survives a restart."""
    state = State()
    if records and records.exists():
        _replay(state, records)

    def record(began: State, **entry: Any) -> None:
        """One line of the file, written before it is acted on, as a database would; none for a call of before a reset.

        A call that hung may wake a minute later, in another test: what it does then is nothing to that one.
        """
        if records and began is state:
            with records.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")

    pools: list[asyncpg.Pool] = []
    opening = asyncio.Lock()

    async def pool() -> asyncpg.Pool:
        async with opening:
            if not pools:
                pools.append(await asyncpg.create_pool(database_url, min_size=0, max_size=10, statement_cache_size=0))
        return pools[0]

    async def send(request: Request) -> Response:
        raw = await request.body()
        try:
            body = json.loads(raw)
        except ValueError:
            body = None
        is_preflight = isinstance(body, dict) and body.get("to") == []
        began = state
        began.requests += 1
        began.preflights += is_preflight
        fault = _next_fault(began, "preflight" if is_preflight else "send", _subject(body))
        if fault and fault.kind == "hang":
            await asyncio.sleep(fault.seconds or 3600)
        if fault and fault.kind == "drop":
            return _dropped(request)
        if fault and fault.kind == "status":
            return _forced(began, fault)
        try:
            answer = await _process(began, request, raw, body, fault)
        except Failure as failure:
            answer = failure.response()
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            answer = Failure(500, "INTERNAL_SERVER_ERROR", "An unexpected error occurred").response()
        if fault and fault.kind == "drop_after":
            return _dropped(request)
        if fault and fault.kind == "status_after" and answer.status_code == 200:
            return _forced(began, fault)
        began.statuses[answer.status_code] = began.statuses.get(answer.status_code, 0) + 1
        return answer

    async def _process(began: State, request: Request, raw: bytes, body: Any, fault: Fault | None) -> Response:
        if len(raw) > MAX_BODY:
            return Response(status_code=413)
        database = await pool()
        project = await _authenticate(database, request)
        headers = _spend_token(began, project["id"]) if began.rate_limit else {}
        try:
            return await _work(began, request, body, fault, database, project["id"], headers)
        except Failure as failure:
            failure.headers = {**headers, **(failure.headers or {})}
            raise

    async def _work(
        began: State,
        request: Request,
        body: Any,
        fault: Fault | None,
        database: asyncpg.Pool,
        project_id: str,
        headers: dict[str, str],
    ) -> Response:
        key = request.headers.get("idempotency-key")
        slot = (project_id, key) if key and not began.ignore_keys else None
        if key is not None and not (1 <= len(key) <= 255 and key.isascii() and key.isprintable()):
            raise Failure(400, "BAD_REQUEST", "Idempotency-Key must be 1 to 255 printable ASCII characters")
        if slot and slot in began.keys:
            raise Failure(
                409,
                "IDEMPOTENCY_KEY_REUSED",
                "Idempotency-Key was used before",
                details={"originalStatusCode": began.keys[slot]},
            )
        if slot:
            began.keys[slot] = None
            record(began, key=slot, status=None)
        status = 500
        try:
            if body is None:
                raise Failure(400, "VALIDATION_ERROR", "Broken JSON")
            wrong = complaints(body)
            if wrong:
                raise Failure(422, "VALIDATION_ERROR", "Validation failed", errors=wrong)
            await _check_domain(database, project_id, body["from"])
            if fault and fault.kind == "latency":
                await asyncio.sleep(fault.seconds)
            to = body["to"] if isinstance(body["to"], list) else [body["to"]]
            addresses = [one["email"] if isinstance(one, dict) else one for one in to]
            if addresses:
                mail = {"project": project_id, "idempotency_key": key, "at": time.time(), "body": body}
                began.sent.append(mail)
                record(began, mail=mail)
            status = fault.status if fault and fault.kind == "status_after" else 200
        except Failure as failure:
            status = failure.status
            raise
        finally:
            if slot:
                _settle(began, slot, status)
                record(began, key=slot, status=status)
        emails = [{"contact": {"id": str(uuid.uuid4()), "email": a}, "email": str(uuid.uuid4())} for a in addresses]
        return JSONResponse({"success": True, "data": {"emails": emails, "timestamp": _now()}}, headers=headers)

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def sent(_: Request) -> Response:
        return JSONResponse(state.sent)

    async def counts(_: Request) -> Response:
        return JSONResponse(
            {
                "sent": len(state.sent),
                "requests": state.requests,
                "preflights": state.preflights,
                "statuses": state.statuses,
            }
        )

    async def faults(request: Request) -> Response:
        if request.method == "DELETE":
            state.faults.clear()
        else:
            state.faults.append(Fault(**await request.json()))
        return JSONResponse({"faults": len(state.faults)})

    async def options(request: Request) -> Response:
        for name, value in (await request.json()).items():
            setattr(state, name, value)
        return JSONResponse({})

    async def reset(_: Request) -> Response:
        nonlocal state
        state = State()
        if records:
            await asyncio.to_thread(records.unlink, missing_ok=True)
        return JSONResponse({})

    async def inbox(_: Request) -> Response:
        return HTMLResponse(inbox_page(state.sent))

    return Starlette(
        routes=[
            Route("/v1/send", send, methods=["POST"]),
            Route("/health", health),
            Route("/", inbox),
            Route("/_control/sent", sent),
            Route("/_control/counts", counts),
            Route("/_control/faults", faults, methods=["POST", "DELETE"]),
            Route("/_control/options", options, methods=["POST"]),
            Route("/_control/reset", reset, methods=["POST"]),
        ]
    )


def _settle(state: State, slot: tuple[str, str], status: int | None) -> None:
    """A key is released by 4xx and kept by everything else."""
    if status is not None and 400 <= status < 500:
        state.keys.pop(slot, None)
    else:
        state.keys[slot] = status


def _replay(state: State, records: Path) -> None:
    """What a killed process remembered; a request it was working on counts as still running."""
    for line in records.read_text("utf-8").splitlines():
        entry = json.loads(line)
        if "mail" in entry:
            state.sent.append(entry["mail"])
        else:
            project_id, key = entry["key"]
            _settle(state, (project_id, key), entry["status"])


async def _authenticate(database: asyncpg.Pool, request: Request) -> Any:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme != "Bearer" or not key:
        raise Failure(401, "MISSING_AUTH", "Authorization header is required")
    project = await database.fetchrow("SELECT id, disabled FROM projects WHERE secret = $1", key)
    if project is None:
        raise Failure(401, "INVALID_API_KEY", "Invalid API key")
    if project["disabled"]:
        raise Failure(403, "PROJECT_DISABLED", "Project is disabled")
    return project


async def _check_domain(database: asyncpg.Pool, project_id: str, sender: Any) -> None:
    address = sender["email"] if isinstance(sender, dict) else sender
    domain = address.rpartition("@")[2].lower()
    found = await database.fetchrow(
        'SELECT "projectId", verified FROM domains WHERE lower(domain) = $1 ORDER BY ("projectId" = $2) DESC',
        domain,
        project_id,
    )
    if found is None or found["projectId"] != project_id:
        raise Failure(403, "FORBIDDEN", f"Domain {domain} is not registered for this project")
    if not found["verified"]:
        raise Failure(403, "FORBIDDEN", f"Domain {domain} is not verified")


def _spend_token(state: State, project_id: str) -> dict[str, str]:
    now = time.monotonic()
    tokens, at = state.buckets.get(project_id, (BURST, now))
    tokens = min(BURST, tokens + (now - at) * RATE)
    if tokens < 1:
        state.buckets[project_id] = (tokens, now)
        wait = max(1, math.ceil((1 - tokens) / RATE))
        headers = {"Retry-After": str(wait), "RateLimit-Limit": "50", "RateLimit-Remaining": "0"}
        raise Failure(
            429,
            "RATE_LIMIT_EXCEEDED",
            "Too many requests",
            headers={**headers, "RateLimit-Reset": str(math.ceil(BURST / RATE))},
        )
    state.buckets[project_id] = (tokens - 1, now)
    remaining = int(tokens - 1)
    reset = math.ceil((BURST - remaining) / RATE)
    return {"RateLimit-Limit": "50", "RateLimit-Remaining": str(remaining), "RateLimit-Reset": str(reset)}


def _subject(body: Any) -> str:
    subject = body.get("subject") if isinstance(body, dict) else None
    return subject if isinstance(subject, str) else ""


def _next_fault(state: State, scope: str, subject: str) -> Fault | None:
    for fault in list(state.faults):
        if fault.scope in (scope, "all") and subject.startswith(fault.subject):
            if fault.times > 0:
                fault.times -= 1
                if fault.times == 0:
                    state.faults.remove(fault)
            return fault
    return None


def _forced(state: State, fault: Fault) -> Response:
    state.statuses[fault.status] = state.statuses.get(fault.status, 0) + 1
    headers = {"Retry-After": str(fault.retry_after)} if fault.retry_after else None
    if fault.status in (502, 503, 504):
        return HTMLResponse("<html><h1>Bad Gateway</h1></html>", fault.status, headers=headers)
    errors = {"errors": [{"field": name, "message": "is wrong", "code": "custom"} for name in fault.fields]}
    return Failure(
        fault.status, "FORCED", fault.message, headers=headers, **(errors if fault.fields else {})
    ).response()


def _dropped(request: Request) -> Response:
    """Ends the connection without an answer."""
    transport = request.scope.get("extensions", {}).get("sandbox.transport")
    if transport is not None:
        transport.abort()
    raise ConnectionAbortedError("dropped as told")


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
