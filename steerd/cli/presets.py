"""`steerd presets`: the steering that a server's operator has prepared."""

from __future__ import annotations

import argparse

from rich.table import Table

from steerd.cli import arguments
from steerd.cli.tables import edit_text
from steerd.cli.terminal import open_console
from steerd.client import Client


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    parser = commands.add_parser("presets", help="list the presets that requests can name")
    arguments.add_address(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print one line a preset."""
    with Client(options.address) as client:
        presets = client.presets()
    table = Table("preset", "version", "what it does", "description")
    for preset in presets:
        edits = ", ".join(map(edit_text, preset.interventions))
        table.add_row(preset.named.name, preset.named.version, edits, preset.description)
    open_console().print(table)
    return 0
