"""requests, loaded without what guesses the charset of a text: 3 MB in every process, and no answer's is guessed here.

requests does without a guesser where none is installed, and then takes a text for UTF-8.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, cast

GUESSERS: Final = ("chardet", "charset_normalizer")


@contextmanager
def _not_installed(*names: str) -> Iterator[None]:
    """Importing a module of these names fails meanwhile; one that is loaded already stays so."""
    modules = cast("dict[str, Any]", sys.modules)
    hidden = [name for name in names if name not in modules]
    modules.update(dict.fromkeys(hidden))
    try:
        yield
    finally:
        for name in hidden:
            del modules[name]


with _not_installed(*GUESSERS), warnings.catch_warnings():
    # It warns that it will not guess.
    warnings.simplefilter("ignore")
    import requests

__all__ = ["requests"]
