"""`steerd rank`: the features that say something when they are steered."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from rich.table import Table

from steerd.cli import arguments
from steerd.cli.label_text import label_text
from steerd.cli.tables import named
from steerd.cli.terminal import open_console
from steerd.feature_client import FeatureClient
from steerd.studies.output_table import OutputTable
from steerd.study_wire.outputs import OutputsCall

_SHOWN_TOKENS = 8


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    parser = commands.add_parser(
        "rank",
        help="find the features that say something when they are steered",
        description="Rank features by their output score (arXiv 2505.20063): how likely the tokens become "
        "that a feature promotes, when it is raised. Words that are likely anyway count in full, so try "
        "out with `steerd dose` what a feature does to whole answers.",
        epilog="example: steerd rank --sae starter-14 --top 10",
    )
    arguments.add_address(parser)
    parser.add_argument(
        "features",
        type=arguments.feature,
        nargs="*",
        metavar="SAE:FEATURE",
        help="only these (default: all that are alive)",
    )
    parser.add_argument("--sae", action="append", default=[], metavar="NAME", help="may be repeated")
    parser.add_argument("--top", type=int, metavar="N", help="how many to tell (default: 20)")
    parser.add_argument("--max-seconds", type=float, default=0.0, metavar="S", help="then tell what is done")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print a table, or one JSON object."""
    call = OutputsCall(
        features=tuple(options.features),
        saes=tuple(options.sae),
        top=options.top,
        max_seconds=options.max_seconds,
    )
    with FeatureClient(options.address) as client:
        table = client.rank_outputs(call)
    console = open_console()
    if options.json:
        console.print_json(json.dumps(asdict(table)))
        return 0
    console.print(f"{'' if table.complete else 'stopped early: '}{table.scored} features scored")
    console.print(outputs_table(table))
    return 0


def outputs_table(table: OutputTable) -> Table:
    """A row a feature, best first."""
    shown = Table("feature", "label", "output score", "promotes", title="Output scores", title_justify="left")
    for found in table.features:
        shown.add_row(
            named(found.feature),
            label_text(found.label) if found.label else "",
            f"{found.score:.3f}",
            " ".join(map(repr, found.promoted_texts[:_SHOWN_TOKENS])),
        )
    return shown
