"""A variable of the environment: how its text is read, what it may be, and what it is for.

Each kind is a field of a dataclass with the ``Variable`` in its metadata. A library that does this (pydantic) was
measured at 9 MB in every process, for something that is done once in a process's life.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any, Final, TypeVar, get_args

KEY: Final = "variable"
"""Where a field's metadata has its ``Variable``."""

TRUE: Final = frozenset({"1", "on", "t", "true", "y", "yes"})
FALSE: Final = frozenset({"0", "off", "f", "false", "n", "no"})

_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,18}")

LAST_PORT: Final = 65535

N = TypeVar("N", int, float)


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """What is known of one variable. Its name is that of its field, in capitals."""

    description: str
    read: Callable[[str], Any]
    """Text, without white space around it, to value. Raises ``ValueError`` that says what it must be: "must be …"."""
    default: Any
    is_secret: bool = False
    choices: tuple[str, ...] = ()
    """All that it may be, where that can be listed."""
    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    """Bounds of a number: at least, more than, at most."""

    @property
    def shown_default(self) -> str:
        """The default as one would write it into the environment; "" when it is empty."""
        if isinstance(self.default, tuple):
            return ",".join(map(str, self.default))
        if isinstance(self.default, bool):
            return str(self.default).lower()
        return "" if self.default is None else str(self.default)

    @property
    def allowed(self) -> str:
        """What it may be, for a person: a range, a choice, or "" where only its own check can say."""
        if self.choices:
            return ", ".join(self.choices)
        strictly = "" if self.gt is None else "more than "
        least = self.ge if self.gt is None else self.gt
        if least is None:
            return ""
        if self.le is None:
            return f"{strictly}{least}" if strictly else f"{least} or more"
        return f"{strictly}{least} to {self.le}"


def variables_of(settings: type) -> dict[str, Variable]:
    """Field's name → its variable, of a dataclass whose fields are of the kinds below."""
    return {item.name: item.metadata[KEY] for item in fields(settings)}


def text(default: str, description: str, *, check: Callable[[str], str] | None = None, is_secret: bool = False) -> Any:
    """A text as it stands, or what ``check`` makes of it."""
    return _field(Variable(description=description, read=check or str, default=default, is_secret=is_secret))


def path(default: Path | None, description: str) -> Any:
    return _field(Variable(description=description, read=Path, default=default))


def whole(default: int, description: str, *, ge: int, le: int | None = None) -> Any:
    """A whole number."""

    def read(value: str) -> int:
        # int() would read the digits of other scripts, too.
        if not _INTEGER.fullmatch(value):
            raise ValueError("must be a valid integer")
        return _bounded(int(value), variable)

    variable = Variable(description=description, read=read, default=default, ge=ge, le=le)
    return _field(variable)


def port(default: int, description: str) -> Any:
    return whole(default, description, ge=1, le=LAST_PORT)


def number(
    default: float, description: str, *, ge: float | None = None, gt: float | None = None, le: float | None = None
) -> Any:
    """A number with or without decimals."""

    def read(value: str) -> float:
        try:
            found = float(value)
        except ValueError:
            found = math.nan
        if not (math.isfinite(found) and value.isascii()):
            raise ValueError("must be a valid number")
        return _bounded(found, variable)

    variable = Variable(description=description, read=read, default=default, ge=ge, gt=gt, le=le)
    return _field(variable)


def seconds(default: float, description: str) -> Any:
    """How long something may take: a day at most."""
    return number(default, description, gt=0, le=86_400)


def switch(default: bool, description: str) -> Any:
    """True or false, in the spellings that people use for it."""

    def read(value: str) -> bool:
        if (word := value.lower()) not in TRUE | FALSE:
            raise ValueError("must be a valid boolean: true or false")
        return word in TRUE

    return _field(Variable(description=description, read=read, default=default, choices=("true", "false")))


def choice(default: str, description: str, literal: Any) -> Any:
    """One of the words of a ``Literal``."""
    choices: tuple[str, ...] = get_args(literal)

    def read(value: str) -> str:
        if value not in choices:
            *most, last = map(repr, choices)
            raise ValueError(f"must be {', '.join(most)} or {last}")
        return value

    return _field(Variable(description=description, read=read, default=default, choices=choices))


def ports(default: tuple[int, ...], description: str) -> Any:
    """Ports, separated by commas."""

    def read(value: str) -> tuple[int, ...]:
        items = _listed(value)
        if not all(_INTEGER.fullmatch(item) and 1 <= int(item) <= LAST_PORT for item in items):
            raise ValueError(f"must be ports from 1 to {LAST_PORT}, separated by commas")
        return tuple(map(int, items))

    return _field(Variable(description=description, read=read, default=default))


def networks(default: tuple[IPv4Network | IPv6Network, ...], description: str) -> Any:
    """IP networks, separated by commas."""

    def read(value: str) -> tuple[IPv4Network | IPv6Network, ...]:
        try:
            return tuple(map(ip_network, _listed(value)))
        except ValueError:
            raise ValueError("must be networks such as 10.0.0.0/8 or fd00::/8, separated by commas") from None

    return _field(Variable(description=description, read=read, default=default))


def _field(variable: Variable) -> Any:
    return field(default=variable.default, repr=not variable.is_secret, metadata={KEY: variable})


def _listed(value: str) -> list[str]:
    return [item.strip() for item in value.split(",") if item.strip()]


def _bounded(found: N, variable: Variable) -> N:
    if variable.ge is not None and found < variable.ge:
        raise ValueError(f"must be greater than or equal to {variable.ge}")
    if variable.gt is not None and found <= variable.gt:
        raise ValueError(f"must be greater than {variable.gt}")
    if variable.le is not None and found > variable.le:
        raise ValueError(f"must be less than or equal to {variable.le}")
    return found
