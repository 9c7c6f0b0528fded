"""``python -m sandbox.plunk_api``: the stand-in API as a process of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from sandbox.plunk_api.app import make_app


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=3000, show_default=True)
@click.option("--database-url", required=True)
@click.option("--records", type=click.Path(path_type=Path), help="File in which what was sent survives a restart.")
def main(host: str, port: int, database_url: str, records: Path | None) -> None:
    """Serve the stand-in for the Plunk API."""
    app = make_app(database_url, records=records)

    class Protocol(H11Protocol):
        """Hands the transport to the application, which may be told to drop the connection."""

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            inner = self.app

            async def with_transport(scope: Any, receive: Any, send: Any) -> None:
                scope.setdefault("extensions", {})["sandbox.transport"] = transport
                await inner(scope, receive, send)

            self.app = with_transport

    uvicorn.run(
        app,
        host=host,
        port=port,
        log_level="critical",
        access_log=False,
        http=Protocol,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=1,
    )


if __name__ == "__main__":
    main()
