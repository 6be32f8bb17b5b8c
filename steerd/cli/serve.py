"""`steerd serve`: the server, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from steerd.config import Config, SaeConfig, default_saes
from steerd.config_file import load_config


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    parser = commands.add_parser(
        "serve",
        help="run the server",
        description="Run the server until SIGTERM or Ctrl-C; what runs by then is finished first. Without a "
        "file it serves the default host and the starter SAEs on 127.0.0.1:50051, and metrics on port 9464. "
        "Options go before what the file says.",
    )
    parser.add_argument(
        "config", nargs="?", type=Path, metavar="CONFIG.toml", help="settings; see steerd/config.py"
    )
    parser.add_argument("--model", metavar="NAME", help="the host: an alias, a local folder or a hub id")
    parser.add_argument(
        "--sae",
        action="append",
        type=_named_folder,
        metavar="NAME=FOLDER",
        help="an SAE to serve instead of those of the file; may be repeated",
    )
    parser.add_argument("--host", metavar="ADDRESS", help="where gRPC listens")
    parser.add_argument("--port", type=int, metavar="PORT", help="gRPC's port; 0 for any free one")
    parser.add_argument("--metrics-host", metavar="ADDRESS", help="where /metrics listens")
    parser.add_argument("--metrics-port", type=int, metavar="PORT", help="the port of /metrics")
    parser.add_argument(
        "--request-log", metavar="FILE", help="a JSON line for each request: stderr, off or a file"
    )
    parser.add_argument(
        "--insecure",
        action="store_true",
        default=None,
        help="serve other machines too, though nothing is encrypted and everybody is let in",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Serve; returns the process's exit status."""
    config = read_config(options)
    from steerd.app import serve  # costs torch, which a mistake in the config need not pay for

    return serve(config)


def read_config(options: argparse.Namespace) -> Config:
    """The file, or the defaults, changed by the options. Raises ConfigError."""
    config = load_config(options.config) if options.config else Config()
    saes = config.saes if options.config or options.model is None else default_saes(options.model)
    return replace(
        config,
        model=_changed(config.model, name=options.model),
        saes=tuple(options.sae) if options.sae else saes,
        server=_changed(config.server, host=options.host, port=options.port, insecure=options.insecure),
        monitoring=_changed(
            config.monitoring,
            host=options.metrics_host,
            port=options.metrics_port,
            request_log=options.request_log,
        ),
    )


def _changed(section: Any, **values: object) -> Any:
    """The section with the values that were given."""
    return replace(section, **{name: value for name, value in values.items() if value is not None})


def _named_folder(text: str) -> SaeConfig:
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise argparse.ArgumentTypeError(
            f"expected NAME=FOLDER, for example topics=saes/topics; got {text!r}"
        )
    return SaeConfig(name=name, path=folder)
