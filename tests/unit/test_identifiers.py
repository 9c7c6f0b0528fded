"""Random identifiers: as long as asked for, never the same twice, not even in a forked child."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

from shared.identifiers import BLOCK, RandomHex

ROOT: Final = Path(__file__).parents[2]


def test_identifiers_have_their_length_and_differ_over_many_blocks() -> None:
    random_hex = RandomHex()
    found = [random_hex(16) for _ in range(3 * BLOCK // 16)]
    assert {len(value) for value in found} == {32}
    assert len(set(found)) == len(found)
    assert len(random_hex(2 * BLOCK)) == 4 * BLOCK


FORKS: Final = """
import os
from shared.identifiers import RandomHex
random_hex = RandomHex()
random_hex(16)
child = os.fork()
# In one write, so that the two lines stay lines.
os.write(1, random_hex(16).encode() + b"\\n")
if child:
    os.waitpid(child, 0)
"""


def test_a_forked_child_does_not_repeat_its_parents_identifiers() -> None:
    # In an interpreter of its own: the tests' one has threads, which a fork would leave behind.
    said = subprocess.run([sys.executable, "-c", FORKS], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    parents, childs = said.split()
    assert len(parents) == len(childs) == 32
    assert parents != childs
