"""`steerd saes`: the SAEs that a server has loaded."""

from __future__ import annotations

import argparse

from rich.table import Table

from steerd.cli import arguments
from steerd.cli.terminal import open_console
from steerd.client import Client


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    parser = commands.add_parser("saes", help="list the SAEs that a server has loaded")
    arguments.add_address(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print one line a served SAE."""
    with Client(options.address) as client:
        info, saes = client.server_info(), client.saes()
    table = Table("name", "hook point", "features", "width", "architecture", "trained on", "sha256")
    for sae in saes:
        table.add_row(
            sae.name,
            sae.hook_point,
            str(sae.d_sae),
            str(sae.d_model),
            sae.architecture,
            sae.model_name,
            sae.weights_sha256[:12],
        )
    console = open_console()
    console.print(
        f"steerd {info.version} at {options.address} serves {info.model} ({info.dtype}, {info.device})"
    )
    console.print(table)
    return 0
