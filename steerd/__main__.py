"""The command `steerd`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from steerd.cli import (
    attribute,
    compare,
    contrast,
    demo,
    dose,
    effects,
    encode,
    features,
    generate,
    health,
    lens,
    presets,
    rank,
    saes,
    score,
    selftest,
    serve,
    special_tokens,
    top,
    trace,
    watch,
)
from steerd.errors import SteerdError

_COMMANDS = (
    serve,
    generate,
    score,
    encode,
    saes,
    watch,
    top,
    features,
    contrast,
    compare,
    attribute,
    lens,
    trace,
    effects,
    rank,
    dose,
    special_tokens,
    presets,
    health,
    selftest,
    demo,
)
_INTERRUPTED = 130  # what a shell reports for a process that Ctrl-C ended


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand. A SteerdError is one line on standard error and status 1, bad usage is status 2."""
    options = make_parser().parse_args(argv)
    try:
        status: int = options.run(options)
    except SteerdError as error:
        print(f"steerd: {error}", file=sys.stderr)  # noqa: T201  # the command line's own output
        return 1
    except KeyboardInterrupt:
        return _INTERRUPTED
    return status


def make_parser() -> argparse.ArgumentParser:
    """The parser with every subcommand."""
    parser = argparse.ArgumentParser(
        prog="steerd", description="Steer and watch a language model through sparse autoencoders."
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in _COMMANDS:
        command.add_parser(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
