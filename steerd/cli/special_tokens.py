"""`steerd special-tokens`: the features that fire on the markers of chats, and what steering by them does."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from steerd.cli import arguments
from steerd.cli.dose import advice, curve_table
from steerd.cli.label_text import label_text
from steerd.cli.tables import named
from steerd.cli.terminal import open_console
from steerd.cli.text_files import read_texts
from steerd.feature_client import FeatureClient
from steerd.studies.special_token_table import SpecialToken, SpecialTokenTable
from steerd.study_wire.evaluate import EvaluateCall
from steerd.study_wire.special_tokens import SpecialTokensCall


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    parser = commands.add_parser(
        "special-tokens",
        help="find the features that fire on the markers of chats",
        description="Tell the features that are most active on each special token, by the mean of their "
        "maxima in texts, and what steering by the strongest on these tokens alone does.",
        epilog="example: steerd special-tokens --sae starter-14 --sweep 1",
    )
    arguments.add_address(parser)
    parser.add_argument("--file", type=Path, help="texts from a file, as `encode` does (default: questions)")
    parser.add_argument("--sae", action="append", default=[], metavar="NAME", help="may be repeated")
    parser.add_argument("--top", type=int, metavar="N", help="features a token and SAE (default: 5)")
    parser.add_argument(
        "--sweep", type=int, default=0, metavar="N", help="evaluate each token's N strongest features"
    )
    parser.add_argument(
        "--strengths",
        type=float,
        nargs="+",
        default=[],
        metavar="X",
        help="of the sweep, as `dose` takes them",
    )
    parser.add_argument("--max-new-tokens", type=int, metavar="N", help="of the sweep's answers")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print a table a token, then a curve a swept feature; or one JSON object."""
    console = open_console()
    call = SpecialTokensCall(
        texts=read_texts(options.file) if options.file is not None else (),
        saes=tuple(options.sae),
        top=options.top,
    )
    with FeatureClient(options.address) as client:
        table = client.special_tokens(call)
        curves = [client.evaluate(each) for each in sweep_calls(table, options)]
    if options.json:
        console.print_json(json.dumps({"table": asdict(table), "sweep": [asdict(each) for each in curves]}))
        return 0
    for token in table.tokens:
        console.print(token_table(token))
    for curve in curves:
        console.print(f"{named(curve.feature)}, steered on its token alone")
        console.print(curve_table(curve))
        for line in advice(curve):
            console.print(line)
    return 0


def sweep_calls(table: SpecialTokenTable, options: argparse.Namespace) -> list[EvaluateCall]:
    """For each token's strongest features, by their mean maxima: they are steered on that token alone."""
    return [
        EvaluateCall(
            feature=found.feature,
            special_token_ids=(token.token_id,),
            strengths=tuple(options.strengths),
            max_new_tokens=options.max_new_tokens,
        )
        for token in table.tokens
        for found in sorted(token.features, key=lambda each: -each.mean_maximum)[: options.sweep]
    ]


def token_table(token: SpecialToken) -> Table:
    """A row a feature."""
    title = f"{token.token_text!r} (id {token.token_id}), in {token.texts} texts"
    table = Table("feature", "label", title=title, title_justify="left")
    for heading in ("mean maximum", "maximum", "fires in", "on ordinary tokens"):
        table.add_column(heading, justify="right")
    for found in token.features:
        table.add_row(
            named(found.feature),
            label_text(found.label) if found.label else "",
            f"{found.mean_maximum:.2f}",
            f"{found.maximum:.2f}",
            f"{found.text_share:.0%}",
            f"{found.ordinary_mean_maximum:.2f}",
        )
    return table
