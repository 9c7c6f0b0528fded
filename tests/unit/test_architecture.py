"""Which package may import which: the arrows of the design, read from the code."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ALLOWED = {
    "shared": {"shared"},
    "ingress": {"ingress", "shared"},
    "forwarder": {"forwarder", "shared"},
    "sandbox": {"sandbox", "shared"},
}


def imported(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found & ({*ALLOWED, "tests", "benchmarks"})


@pytest.mark.parametrize("package", ALLOWED)
def test_a_package_imports_only_what_it_may(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        assert imported(path) <= ALLOWED[package], path


@pytest.mark.parametrize("role", ["ingress", "forwarder"])
def test_a_process_does_not_carry_what_it_never_uses(role: str) -> None:
    script = (
        f"import sys, warnings; warnings.simplefilter('error'); import {role}.__main__, requests; print(*sys.modules)"
    )
    command = [sys.executable, "-c", script]
    loaded = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert "requests" in loaded
    # What guesses charsets, what reads certificates while there is none, what reads settings: 3, 8 and 9 MB.
    assert not {"charset_normalizer", "chardet", "cryptography.x509", "pydantic"} & set(loaded)
