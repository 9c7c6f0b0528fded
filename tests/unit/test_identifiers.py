"""Random identifiers: as long as asked for, never the same twice, not even in a forked child."""

from __future__ import annotations

import os

from shared.identifiers import BLOCK, RandomHex


def test_identifiers_have_their_length_and_differ_over_many_blocks() -> None:
    random_hex = RandomHex()
    found = [random_hex(16) for _ in range(3 * BLOCK // 16)]
    assert {len(value) for value in found} == {32}
    assert len(set(found)) == len(found)
    assert len(random_hex(2 * BLOCK)) == 4 * BLOCK


def test_a_forked_child_does_not_repeat_its_parents_identifiers() -> None:
    random_hex = RandomHex()
    random_hex(16)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, random_hex(16).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    assert os.read(reading, 100).decode() != random_hex(16)
    os.close(reading)
