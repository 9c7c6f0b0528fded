"""Reports that pytest survives: CPython 3.11 before 3.11.8 may fail to build a syntax tree (python/cpython#106905).

Its count of how deep it is belongs to all threads. pytest parses the source of a test that failed; when a garbage
collection amid that runs Python code, as Hypothesis has it do at each, another thread may have its turn, format a
traceback, which parses too, and leave another count: ``SystemError: AST constructor recursion depth mismatch``, and
pytest ends without a word of what failed. Without a collection nothing comes between.
"""

from __future__ import annotations

import gc
from collections.abc import Generator, Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    with no_garbage_collection():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same where a test file is read, and its assertions are written anew."""
    with no_garbage_collection():
        return (yield)
