"""Patterns match the same on every Python, those of which possessive groups go wrong included."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from re import _constants, _parser  # type: ignore[attr-defined]
from typing import Any

import pytest

import forwarder
import ingress
import shared
from ingress.message import patterns

SINGLE = (_constants.LITERAL, _constants.NOT_LITERAL, _constants.ANY, _constants.IN)
"""What a possessive repeat may hold on every Python."""


def possessive_groups(items: Any) -> Iterator[object]:
    """The possessive repeats of more than one character in a parsed pattern, at any depth."""
    for operation, argument in items:
        if operation is _constants.POSSESSIVE_REPEAT and (len(argument[2]) != 1 or argument[2][0][0] not in SINGLE):
            yield operation
        parts = argument if isinstance(argument, tuple | list) else [argument]
        for part in parts:
            for inner in part if isinstance(part, list) else [part]:
                if isinstance(inner, _parser.SubPattern):
                    yield from possessive_groups(inner)


def all_patterns() -> dict[str, re.Pattern[Any]]:
    found = {}
    for package in (ingress, shared, forwarder):
        for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            if not module.name.endswith("__main__"):
                values = vars(importlib.import_module(module.name)).items()
                found |= {f"{module.name}.{name}": value for name, value in values if isinstance(value, re.Pattern)}
    return found


@pytest.fixture(scope="module")
def as_on_an_old_python() -> dict[str, re.Pattern[Any]]:
    """All patterns as a Python before 3.11.5 has them."""
    found = all_patterns()
    for name, pattern in found.items():
        if next(possessive_groups(_parser.parse(pattern.pattern, pattern.flags)), None):
            source = pattern.pattern
            text = source if isinstance(source, str) else source.decode("latin-1")
            atomic = patterns.with_atomic_groups(text)
            found[name] = re.compile(atomic if isinstance(source, str) else atomic.encode("latin-1"), pattern.flags)
    return found


def test_there_are_patterns_with_possessive_groups() -> None:
    assert len(all_patterns()) > 50
    if patterns.IS_RIGHT:
        groups = [n for n, p in all_patterns().items() if next(possessive_groups(_parser.parse(p.pattern, p.flags)), 0)]
        assert len(groups) >= 10, groups


def test_an_old_python_gets_none(as_on_an_old_python: dict[str, re.Pattern[Any]]) -> None:
    for name, pattern in as_on_an_old_python.items():
        assert not list(possessive_groups(_parser.parse(pattern.pattern, pattern.flags))), name


def test_each_is_compiled_where_an_old_python_is_thought_of() -> None:
    """Whoever calls ``re.compile`` with such a group would be wrong there."""
    for name, pattern in all_patterns().items():
        if next(possessive_groups(_parser.parse(pattern.pattern, pattern.flags)), None):
            assert "patterns" in vars(importlib.import_module(name.rpartition(".")[0]))["compile_pattern"].__module__


@pytest.mark.parametrize(
    ("pattern", "atomic"),
    [
        (r"(?:ab)*+c", r"(?>(?:ab)*)c"),
        (r"((?:\\.|[^\"\\)])*+)", r"((?>(?:\\.|[^\"\\)])*))"),
        (r"(a(?:b(?:cd)?+)++)", r"(a(?>(?:b(?>(?:cd)?))+))"),
        (r"\((?:a)?+\)*[)]*+", r"\((?>(?:a)?)\)*[)]*+"),
        (r"[^])(]*+(x)", r"[^])(]*+(x)"),
        (r"a*+(?:b)*(?:c)+?", r"a*+(?:b)*(?:c)+?"),
    ],
)
def test_groups_are_found_wherever_they_stand(pattern: str, atomic: str) -> None:
    assert patterns.with_atomic_groups(pattern) == atomic
