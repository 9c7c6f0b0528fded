"""Processes that end by SIGKILL at a named instant, so that a crash comes there each time and not by chance."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from sandbox.stack import ROOT


@dataclass(frozen=True, slots=True, kw_only=True)
class Instant:
    """Where to die: before or after the how manieth call of a function in one process."""

    name: str
    """As the fault's row in the table says it."""
    module: str
    function: str
    """``Class.method`` of ``module``."""
    when: Literal["before", "after"]
    call: int = 1


@dataclass(slots=True)
class KillSwitch:
    """Makes the first ``victims`` processes that come to ``instant`` die there."""

    instant: Instant
    directory: Path
    victims: int = 1
    environ: dict[str, str] = field(init=False)
    """What a process's environment needs so that it obeys."""

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True)
        for number in range(self.victims):
            (self.directory / str(number)).touch()
        instant = self.instant
        switch = {
            "module": instant.module,
            "function": instant.function,
            "when": instant.when,
            "call": instant.call,
            "tokens": str(self.directory),
        }
        path = os.pathsep.join((str(Path(__file__).parent), str(ROOT)))
        self.environ = {"KILL_SWITCH": json.dumps(switch), "PYTHONPATH": path}

    @property
    def is_spent(self) -> bool:
        """Whether all victims have died."""
        return not any(self.directory.iterdir())
