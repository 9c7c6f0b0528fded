"""No garbage collection comes between while pytest reads a test file or reports a failure."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from sandbox.stack import ROOT

FAILS = """
import gc

class Shown:
    def __repr__(self):
        return f"while it is reported: {gc.isenabled()}"

print("while it is collected:", gc.isenabled())

def test_it():
    local = Shown()
    print("while it runs:", gc.isenabled())
    assert False
"""


def test_garbage_is_collected_only_while_tests_run(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(FAILS)
    found = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-s", "--showlocals", "-p", "tests.support.reports"),
            *("-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", str(tmp_path), str(tmp_path)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert found.returncode == 1, found.stdout + found.stderr
    for said in ("while it is collected: False", "while it runs: True", "local      = while it is reported: False"):
        assert said in found.stdout
