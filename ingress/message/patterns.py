"""Regular expressions with possessive groups, which CPython gets right from 3.11.5 on only.

Before that a possessive group that holds more than one character, ``(?:…)*+``, fails where it should match (CPython
issue 106052), so that encoded words and folded headers would be read wrongly. There it is written as an atomic group
around a greedy one, ``(?>(?:…)*)``: the same to match, but dearer where thousands of repetitions match nothing.
"""

from __future__ import annotations

import re
import sys
from typing import AnyStr, Final

IS_RIGHT: Final = sys.version_info >= (3, 11, 5)
"""Whether this Python matches possessive groups as it should."""

_TOKEN: Final = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\)(?P<repeat>[*+?])\+|[()]", re.DOTALL)


def compile_pattern(pattern: AnyStr, flags: int = 0) -> re.Pattern[AnyStr]:
    """``re.compile`` for a pattern with possessive groups."""
    if IS_RIGHT:
        return re.compile(pattern, flags)
    if isinstance(pattern, str):
        return re.compile(with_atomic_groups(pattern), flags)
    return re.compile(with_atomic_groups(pattern.decode("latin-1")).encode("latin-1"), flags)


def with_atomic_groups(pattern: str) -> str:
    """``pattern`` with each possessive group, ``*+``, ``++`` or ``?+``, as an atomic one that matches the same."""
    out: list[str] = []
    opened: list[int] = []
    at = 0
    for token in _TOKEN.finditer(pattern):
        out.append(pattern[at : token.start()])
        at = token.end()
        if token[0] == "(":
            opened.append(len(out))
        elif token[0].startswith(")"):
            start = opened.pop()
            if token["repeat"]:
                out[start] = "(?>" + out[start]
                out.append(f"){token['repeat']})")
                continue
        out.append(token[0])
    return "".join(out) + pattern[at:]
