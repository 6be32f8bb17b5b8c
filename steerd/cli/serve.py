"""`steerd serve`: the server, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from steerd.config import Config, default_saes, load_config


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    parser = commands.add_parser(
        "serve",
        help="run the server",
        description="Run the server until SIGTERM or Ctrl-C; what runs by then is finished first. Without a "
        "file it serves the default host and the starter SAE on 127.0.0.1:50051, and metrics on port 9464.",
    )
    parser.add_argument(
        "config", nargs="?", type=Path, metavar="CONFIG.toml", help="settings; see steerd/config.py"
    )
    parser.add_argument(
        "--model", metavar="NAME", help="the host instead: an alias, a local folder or a hub id"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Serve; returns the process's exit status."""
    from steerd.app import serve  # costs torch, which other subcommands need not pay for

    return serve(read_config(options))


def read_config(options: argparse.Namespace) -> Config:
    """The file, or the defaults, with the host that was named; another host has no starter SAE."""
    config = load_config(options.config) if options.config else Config()
    if options.model is None:
        return config
    saes = config.saes if options.config else default_saes(options.model)
    return replace(config, model=replace(config.model, name=options.model), saes=saes)
