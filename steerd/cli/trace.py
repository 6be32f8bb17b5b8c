"""`steerd trace`: which features are active at some tokens, in the SAEs of all layers."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from rich.table import Table

from steerd.cli import steered_text
from steerd.cli.label_text import label_text
from steerd.cli.study_progress import progress_teller
from steerd.cli.terminal import open_console
from steerd.feature_client import FeatureClient
from steerd.studies.trace_table import TraceTable
from steerd.study_wire.trace import TraceCall


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    parser = commands.add_parser(
        "trace",
        help="tell which features are active at some tokens, in all SAEs",
        description="Tell which features are active at some tokens of a text, steered or not, in the SAEs of "
        "all layers, and how much of each token's row the SAEs leave out.",
        epilog="example: steerd trace 'Will it rain tomorrow?' --at=-3: --ablate starter-7:1234",
    )
    steered_text.add_text(parser)
    steered_text.add_positions(parser)
    parser.add_argument("--sae", action="append", default=[], metavar="NAME", help="only this SAE")
    parser.add_argument("--top", type=int, metavar="N", help="each SAE's N most active (default: 10)")
    parser.add_argument(
        "--after-edit", action="store_true", help="read what the edits of each hook point leave"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print a table a position, or one JSON object."""
    call = TraceCall(
        steered=steered_text.steered_text(options),
        saes=tuple(options.sae),
        positions=tuple(options.at),
        top=options.top,
        after_edit=options.after_edit,
        max_seconds=options.max_seconds,
    )
    with FeatureClient(options.address) as client:
        trace = client.trace(call, progress_teller())
    console = open_console()
    if options.json:
        record = asdict(trace) | {"steering": steered_text.steering_record(trace.steering)}
        console.print(json.dumps(record), soft_wrap=True)
        return 0
    for position in sorted({row.position for row in trace.rows}):
        console.print(position_table(trace, position))
    steered_text.print_steering(trace.steering, complete=trace.complete)
    return 0


def position_table(trace: TraceTable, position: int) -> Table:
    """A section for each SAE: what it leaves out, then its features, strongest first."""
    title = f"At {trace.token_texts[position]!r}, token {position}"
    table = Table("feature", "label", title=title, title_justify="left")
    table.add_column("activation", justify="right")
    table.add_column("share of length", justify="right")
    for row in trace.rows:
        if row.position != position:
            continue
        whole = f"{row.active} active, {row.unexplained:.1%} of the square of its length unexplained"
        table.add_row(row.hook_point, whole, "", f"length {row.resid_norm:.1f}", style="dim")
        for feature in row.features:
            table.add_row(
                f"{row.sae}:{feature.feature}",
                label_text(feature.label) if feature.label else "",
                f"{feature.activation:.2f}",
                f"{feature.share:.1%}",
            )
        table.add_section()
    return table
