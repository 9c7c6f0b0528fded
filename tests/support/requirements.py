"""Optional programs of tests: without one a test is skipped, visibly; where CI says it is there, it fails instead."""

from __future__ import annotations

import os
import shutil

import pytest


def requires_program(program: str, *, package: str = "") -> str:
    """The program's path. Skips the test with a reason without it; fails when CI=true, which installs all of them."""
    found = shutil.which(program)
    if found:
        return found
    reason = f"{program} is not installed (package {package or program})"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
