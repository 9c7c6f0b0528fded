"""The heap keeps large blocks for the next message, and gives them back when none comes."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, ctypes
from ingress import heap
from ingress.limits import SharedLimits

def resident():
    with open("/proc/self/statm") as numbers:
        return int(numbers.read().split()[1]) * 4096 // 1_000_000

def use_and_free():
    blocks = [b"x" * 1_000_000 for _ in range(60)]
    # The heap's end: what is free before it cannot go back by itself.
    return blocks.pop()

async def main():
    heap.set_up()
    limits = SharedLimits(max_connections=1, max_connections_per_ip=1, max_bytes=10_000_000)
    before = resident()
    end = use_and_free()
    kept = resident()
    watching = asyncio.create_task(heap.give_back_when_quiet(limits, quiet=0.05))
    await asyncio.sleep(0.2)
    unasked = resident()
    limits.reserve(heap.MUCH)
    limits.release(heap.MUCH)
    while resident() > before + 10:
        await asyncio.sleep(0.01)
    watching.cancel()
    print(before, kept, unasked, resident())

asyncio.run(asyncio.wait_for(main(), 30))
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="malloc is not glibc's")
def test_what_is_free_is_kept_for_the_next_message_and_goes_back_after_a_quiet_spell() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    before, kept, unasked, given_back = map(int, done.stdout.split())
    assert kept > before + 40
    assert unasked > before + 40, "no large message was in flight"
    assert given_back <= before + 10
