"""`steerd top`: the features that are above their usual strength on a server now."""

from __future__ import annotations

import argparse

from rich.table import Table

from steerd.cli import arguments
from steerd.cli.label_text import label_text
from steerd.cli.tables import named
from steerd.cli.terminal import open_console
from steerd.client import Client


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    parser = commands.add_parser("top", help="list the features that are above their usual strength now")
    parser.add_argument(
        "--seconds", type=int, default=60, metavar="N", help="the last N, up to 60 (default: %(default)s)"
    )
    parser.add_argument(
        "--limit", type=int, default=8, metavar="N", help="features of an SAE at most (default: %(default)s)"
    )
    arguments.add_address(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print one line a feature."""
    with Client(options.address) as client:
        found = client.top_features(options.seconds, options.limit)
    table = Table("feature", "label", "active", "strength", "usual")
    for top in found:
        table.add_row(
            named(top.feature),
            label_text(top.label),
            f"{top.active_share:.1%}",
            f"{top.strength:.3%}",
            f"{top.usual_strength:.3%}",
        )
    open_console().print(table)
    return 0
