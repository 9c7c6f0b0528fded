"""Optional programs of tests: without one a test is skipped, visibly; where CI says it is there, it fails instead."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest


def requires_program(program: str, *, package: str = "") -> str:
    """The program's path. Skips the test with a reason without it; fails when CI=true, which installs all of them."""
    found = shutil.which(program)
    if not found:
        _missing(f"{program} is not installed (package {package or program})")
    return found


def requires_npm_package(package: str, folder: Path) -> None:
    """Installs ``name@version`` below ``folder``; skips or fails as ``requires_program`` where that cannot be."""
    requires_program("node", package="nodejs")
    npm = requires_program("npm")
    command = [npm, "install", "--silent", "--no-audit", "--no-fund", package]
    installed = subprocess.run(command, cwd=folder, capture_output=True, check=False, timeout=100)
    if installed.returncode != 0 or not (folder / "node_modules" / package.rpartition("@")[0]).exists():
        _missing(f"{package} cannot be installed from the npm registry")


def _missing(reason: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
