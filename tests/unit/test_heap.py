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
    limits = SharedLimits(max_connections=1, max_connections_per_ip=1, max_bytes=100_000_000)
    before = resident()
    end = use_and_free()
    kept = resident()
    # As long as so much is in flight at times, as much is kept for the next.
    limits.reserve(40_000_000)
    looks = []
    real, heap.free_bytes = heap.free_bytes, lambda: looks.append(real()) or looks[-1]
    watching = asyncio.create_task(heap.give_back(limits, period=0.02))
    while len(looks) < 3:
        await asyncio.sleep(0.01)
    busy = resident()
    limits.release(40_000_000)
    while resident() > before + 10:
        await asyncio.sleep(0.01)
    watching.cancel()
    print(before, kept, busy, resident())

asyncio.run(asyncio.wait_for(main(), 30))
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="malloc is not that of glibc 2.33 or newer")
def test_what_is_free_is_kept_for_the_next_message_and_goes_back_when_none_comes() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    before, kept, busy, given_back = map(int, done.stdout.split())
    assert kept > before + 40
    assert busy > before + 40
    assert given_back <= before + 10
