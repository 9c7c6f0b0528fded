"""``python -m shared.healthcheck``: asks this container's own probe port, for Docker's HEALTHCHECK."""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Final

TIMEOUT: Final = 9.0
"""Seconds; Docker gives the command ten."""


def check(environ: Mapping[str, str] = os.environ) -> str:
    """ "" when ``/readyz`` on HEALTH_PORT says 200, else one line on what is wrong."""
    port = environ.get("HEALTH_PORT", "")
    if not port.isdecimal() or port == "0":
        return "HEALTH_PORT is not set: there is nothing to ask"
    # No proxy: this asks the very container it runs in.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{port}/readyz", timeout=TIMEOUT):
            return ""
    except urllib.error.HTTPError as error:
        return error.read(1000).decode("utf-8", "replace").strip()
    except OSError as error:
        return f"no answer: {type(error).__name__}"


if __name__ == "__main__":
    trouble = check()
    if trouble:
        sys.exit(trouble)
