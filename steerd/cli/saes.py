"""`steerd saes`: the SAEs that a server has loaded, and loading one anew."""

from __future__ import annotations

import argparse

from rich.table import Table

from steerd.cli import arguments
from steerd.cli.terminal import open_console
from steerd.client import Client
from steerd.errors import ConfigError


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    parser = commands.add_parser(
        "saes",
        help="list the SAEs that a server has loaded, or have it read one anew",
        description="Without an action, list them. `reload` reads the folder of a served SAE anew; requests "
        "that run keep the one that they came for.",
        epilog="example: steerd saes    steerd saes reload starter-14",
    )
    parser.add_argument("action", nargs="?", choices=("list", "reload"), default="list")
    parser.add_argument("names", nargs="*", metavar="NAME", help="SAEs to reload")
    arguments.add_address(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Reload the named ones if that is asked for, and print one line a served SAE."""
    if bool(options.names) != (options.action == "reload"):
        raise ConfigError("steerd saes reload takes the names of SAEs, and steerd saes none")
    with Client(options.address) as client:
        for name in options.names:
            client.reload_sae(name)
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
