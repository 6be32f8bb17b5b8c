"""`steerd lens`: what the host would predict after each of its layers."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import asdict

from rich.table import Table

from steerd.cli import steered_text
from steerd.cli.study_progress import progress_teller
from steerd.cli.terminal import open_console
from steerd.feature_client import FeatureClient
from steerd.studies.lens_table import ChosenToken, LensCell, LensTable
from steerd.study_wire.logit_lens import LensCall

_SMALL = 0.001  # below it per cent say nothing


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    parser = commands.add_parser(
        "lens",
        help="tell what the host would predict after each layer",
        description="The logit lens: at some tokens of a text, what the host would predict to follow if it "
        "ended after a layer, steered or not.",
        epilog="example: steerd lens --raw 'The capital of France is' --token ' Paris' --token ' London'",
    )
    steered_text.add_text(parser)
    steered_text.add_positions(parser)
    parser.add_argument(
        "--layer", type=int, action="append", default=[], metavar="N", help="only after this layer"
    )
    parser.add_argument("--top", type=int, metavar="N", help="the N likeliest tokens (default: 5)")
    parser.add_argument(
        "--token",
        action="append",
        default=[],
        metavar="TEXT",
        help="follow this token's probability and rank over the layers; may be repeated",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print a table a position, or one JSON object."""
    call = LensCall(
        steered=steered_text.steered_text(options),
        layers=tuple(options.layer),
        positions=tuple(options.at),
        top=options.top,
        tokens=tuple(options.token),
        max_seconds=options.max_seconds,
    )
    with FeatureClient(options.address) as client:
        lens = client.lens(call, progress_teller())
    console = open_console()
    if options.json:
        record = asdict(lens) | {"steering": steered_text.steering_record(lens.steering)}
        console.print(json.dumps(record), soft_wrap=True)
        return 0
    for position in sorted({cell.position for cell in lens.cells}):
        console.print(position_table(lens, position))
    steered_text.print_steering(lens.steering, complete=lens.complete)
    return 0


def position_table(lens: LensTable, position: int) -> Table:
    """A row a layer: the likeliest tokens with their probabilities, then each chosen one's and its rank."""
    cells = [cell for cell in lens.cells if cell.position == position]
    title = f"After {lens.token_texts[position]!r}, token {position}"
    table = Table("layer", title=title, title_justify="left")
    for number in range(max((len(cell.top) for cell in cells), default=0)):
        table.add_column("likeliest" if number == 0 else "")
    for text in lens.chosen_texts:
        table.add_column(repr(text), justify="right")
    for cell in cells:
        table.add_row(str(cell.layer), *_likeliest(cell), *_chosen(cell.chosen))
    return table


def _likeliest(cell: LensCell) -> list[str]:
    return [f"{token.text!r} {math.exp(token.logprob):.0%}" for token in cell.top]


def _chosen(chosen: Sequence[ChosenToken]) -> list[str]:
    return [f"{_chance(token.logprob)} (#{token.rank})" for token in chosen]


def _chance(logprob: float) -> str:
    """A probability, however small."""
    chance = math.exp(logprob)
    return f"{chance:.1%}" if chance >= _SMALL else f"{chance:.0e}"
