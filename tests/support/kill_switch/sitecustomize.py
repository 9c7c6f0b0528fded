"""Loaded by Python at its start when this folder is on PYTHONPATH: ends the process by SIGKILL at a named instant.

``KILL_SWITCH`` holds JSON: ``module`` and ``function`` (``Class.method``) to watch, ``when`` (before or after the
call), ``call`` (the how manieth of this process) and ``tokens``, a folder with one file for each process that is to
die. A process takes a token before it dies, so that exactly as many die as there were tokens.
"""

import contextlib
import importlib.abc
import importlib.machinery
import inspect
import itertools
import json
import os
import signal
import sys


class Watcher(importlib.abc.MetaPathFinder):
    """Finds the module to watch as everybody does, and lays the switch into its function once it is loaded."""

    def __init__(self, switch):
        self._switch = switch

    def find_spec(self, name, path, target=None):
        if name != self._switch["module"]:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            lay(module, self._switch)

        spec.loader.exec_module = exec_module
        return spec


def lay(module, switch):
    """Replace the function by one that ends the process at the instant."""
    *path, name = switch["function"].split(".")
    owner = module
    for part in path:
        owner = getattr(owner, part)
    real = getattr(owner, name)
    calls = itertools.count(1)

    @contextlib.contextmanager
    def watched():
        is_it = next(calls) >= switch["call"]
        if is_it and switch["when"] == "before":
            die(switch["tokens"])
        yield
        if is_it and switch["when"] == "after":
            die(switch["tokens"])

    def switched(*args, **options):
        with watched():
            return real(*args, **options)

    async def switched_coroutine(*args, **options):
        with watched():
            return await real(*args, **options)

    setattr(owner, name, switched_coroutine if inspect.iscoroutinefunction(real) else switched)


def die(tokens):
    """End this process as a crash does, if a token is left."""
    for token in os.listdir(tokens):
        try:
            os.unlink(os.path.join(tokens, token))
        except FileNotFoundError:
            continue
        os.kill(os.getpid(), signal.SIGKILL)


if os.environ.get("KILL_SWITCH"):
    sys.meta_path.insert(0, Watcher(json.loads(os.environ["KILL_SWITCH"])))
