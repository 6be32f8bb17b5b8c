"""`steerd features`: what the features of an SAE folder stand for, searched by word."""

from __future__ import annotations

import argparse

from steerd.errors import ConfigError
from steerd.starters import STARTERS, sae_folder


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    parser = commands.add_parser(
        "features",
        help="search the features of an SAE by word",
        description="List features whose label or tokens contain every word, best matches first.",
        epilog="example: steerd features music    steerd features --sae starter-14 --feature 1234",
    )
    parser.add_argument(
        "words", nargs="*", metavar="WORD", help="none lists the features that are active most often"
    )
    parser.add_argument(
        "--sae",
        type=sae_folder,
        metavar="NAME",
        help=f"one of {', '.join(STARTERS)} or an SAE folder (default: those three)",
    )
    parser.add_argument(
        "--limit", type=int, default=20, metavar="N", help="rows of an SAE at most (default: %(default)s)"
    )
    parser.add_argument(
        "--feature", type=int, metavar="N", help="show one feature of --sae with its examples instead"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print a table of matches, or one feature."""
    from steerd.cli import feature_pages  # costs torch, which other subcommands need not pay for

    if options.feature is None:
        folders = [options.sae] if options.sae else [sae_folder(name) for name in STARTERS]
        feature_pages.print_matches(folders, options.words, options.limit)
    elif options.sae:
        feature_pages.print_feature(options.sae, options.feature)
    else:
        raise ConfigError("--feature needs --sae: which SAE's feature is to be shown")
    return 0
