"""The probe port of both processes: ``/livez``, ``/readyz``, ``/metrics``, served from a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import orjson
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from shared.log import get_logger

Readiness = Callable[[], Mapping[str, str]]
"""Does the real work once and tells what came of it: name of a dependency → "ok" or one line on what is wrong."""

log = get_logger(__name__)


def _metrics(multiprocess_dir: str | None, collectors: Sequence[Collector]) -> bytes:
    """This process's metrics, or those that its children leave in ``multiprocess_dir`` added up; and ``collectors``."""
    own = CollectorRegistry()
    for collector in collectors:
        own.register(collector)
    if multiprocess_dir is None:
        return generate_latest() + generate_latest(own)
    children = CollectorRegistry()
    MultiProcessCollector(children, path=multiprocess_dir)  # type: ignore[no-untyped-call]
    return generate_latest(children) + generate_latest(own)


class ProbeServer:
    """Serves the probes until ``stop``. ``/readyz`` is 200 only when every dependency says "ok".

    ``multiprocess_dir``: where child processes leave their metrics (PROMETHEUS_MULTIPROC_DIR); None = this process's.
    ``collectors``: asked at every ``/metrics``, for what is nobody's count.
    """

    def __init__(
        self,
        port: int,
        *,
        readiness: Readiness,
        collectors: Sequence[Collector] = (),
        multiprocess_dir: str | None = None,
        host: str = "0.0.0.0",  # noqa: S104
    ) -> None:
        class Handler(BaseHTTPRequestHandler):
            timeout = 10

            def do_GET(self) -> None:
                if self.path == "/livez":
                    self._answer(200, b"ok\n", "text/plain")
                elif self.path == "/readyz":
                    try:
                        result = dict(readiness())
                    except Exception as error:
                        # A probe answers whatever happens; the type's name is all that may be shown.
                        result = {"readiness": type(error).__name__}
                    status = 200 if all(value == "ok" for value in result.values()) else 503
                    self._answer(status, orjson.dumps(result, option=orjson.OPT_APPEND_NEWLINE), "application/json")
                elif self.path == "/metrics":
                    self._answer(200, _metrics(multiprocess_dir, collectors), CONTENT_TYPE_LATEST)
                else:
                    self._answer(404, b"not found\n", "text/plain")

            def _answer(self, status: int, body: bytes, content_type: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                log.debug("probe", request=format % args)

        self._server = ThreadingHTTPServer((host, port), Handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="probes", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
