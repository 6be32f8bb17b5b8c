"""`steerd health`: for container health checks and scripts."""

from __future__ import annotations

import argparse

from steerd.cli import arguments
from steerd.client import Client
from steerd.errors import Unavailable


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    parser = commands.add_parser("health", help="exit with status 0 if a server serves")
    arguments.add_address(parser)
    parser.add_argument("--timeout", type=float, default=3.0, metavar="SECONDS", help="default: %(default)s")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Status 0 if the server says that it serves; raises Unavailable otherwise."""
    with Client(options.address, timeout_seconds=options.timeout) as client:
        if not client.is_serving():
            raise Unavailable(f"no server serves at {options.address}", reason="NOT_SERVING")
    return 0
