"""`steerd features`: what the features of an SAE folder stand for, searched by word."""

from __future__ import annotations

import argparse
from pathlib import Path

from steerd.cli.labels import STARTER_FOLDER


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    parser = commands.add_parser(
        "features",
        help="search the features of an SAE by word",
        description="List features whose label or tokens contain every word, best matches first.",
        epilog="example: steerd features music    steerd features --feature 1234",
    )
    parser.add_argument(
        "words", nargs="*", metavar="WORD", help="none lists the features that are active most often"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=STARTER_FOLDER,
        metavar="PATH",
        help="an SAE folder (default: the starter SAE)",
    )
    parser.add_argument(
        "--limit", type=int, default=20, metavar="N", help="rows at most (default: %(default)s)"
    )
    parser.add_argument("--feature", type=int, metavar="N", help="show one feature with its examples instead")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print a table of matches, or one feature."""
    from steerd.cli import feature_pages  # costs torch, which other subcommands need not pay for

    if options.feature is not None:
        feature_pages.print_feature(options.folder, options.feature)
    else:
        feature_pages.print_matches(options.folder, options.words, options.limit)
    return 0
