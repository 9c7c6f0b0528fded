"""How a process begins: its settings first, then its logging, and with ``--check`` a look at what it needs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import click

from shared.checks import Check, check_configuration, print_checks
from shared.log import configure, report_crashes
from shared.settings import Settings, SettingsError, load_settings
from shared.supervisor import CANNOT_START


def begin(process: str, *, only_check: bool, check_all: Callable[[Settings], Sequence[Check]]) -> Settings:
    """The settings of ``process`` (ingress or forwarder), with its logging set up.

    Wrong settings end the process with ``CANNOT_START``, after a line for each mistake. ``only_check`` ends it too,
    after the table of ``check_all``: with 0 when all is good and 1 otherwise.
    """
    try:
        settings = load_settings()
    except SettingsError as error:
        if only_check:
            print_checks(check_configuration(error.mistakes))
        else:
            for mistake in error.mistakes:
                click.echo(mistake, err=True)
        sys.exit(CANNOT_START)
    configure(settings.log_format, settings.log_level, process=process)
    report_crashes()
    if only_check:
        sys.exit(print_checks([*check_configuration(), *check_all(settings)]))
    return settings
