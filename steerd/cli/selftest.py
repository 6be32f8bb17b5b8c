"""`steerd selftest`: whether steering works on this machine, with this host and these SAEs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from steerd.cli.terminal import open_console
from steerd.config import Config
from steerd.config_file import load_config
from steerd.selftest.report import Report


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    parser = commands.add_parser(
        "selftest",
        help="try out steering with a server's host and SAEs",
        description="Load what a server would serve and compare the engine with the plain host: steered in "
        "every way, alone and batched, token by token and at once. No server runs. The exit status is 1 when "
        "a check fails.",
    )
    parser.add_argument(
        "config", nargs="?", type=Path, metavar="CONFIG.toml", help="settings, as for `steerd serve`"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Status 0 when no check failed."""
    config = load_config(options.config) if options.config else Config()
    from steerd.selftest.configured import (
        try_out,  # costs torch, which a mistake in the config need not pay for
    )

    return show(try_out(config), as_json=options.json)


def show(report: Report, *, as_json: bool) -> int:
    """Print a report; the exit status that it deserves."""
    text = json.dumps(report.record(), indent=2) if as_json else report.table()
    open_console().print(text, soft_wrap=True)
    return 1 if report.failed else 0
