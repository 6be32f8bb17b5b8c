"""`steerd contrast`: the features that tell two sets of texts apart."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.table import Table
from rich.text import Text

from steerd.cli import arguments
from steerd.cli.label_text import label_text
from steerd.cli.study_progress import progress_teller
from steerd.cli.tables import named
from steerd.cli.terminal import open_console, print_warnings
from steerd.cli.text_files import read_texts
from steerd.cli.token_painter import shade
from steerd.feature_client import FeatureClient
from steerd.studies.contrast_table import Contrast, ContrastedFeature, SetName
from steerd.study_wire.contrast import ContrastCall

_FEW_TEXTS = 20  # what fires in all ten of a half and in none of the other ten stands out among thousands


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    parser = commands.add_parser(
        "contrast",
        help="find the features that tell two sets of texts apart",
        description="Compare how often and how strongly features fire in two sets of texts. Features are "
        "found in one half of the texts and measured again in the other.",
        epilog="A file holds a text a line or, if its name ends in .jsonl, an object with text or messages. "
        "example: steerd contrast angry.txt calm.txt --sae starter-14",
    )
    parser.add_argument("a", type=Path, metavar="A", help="one set of texts")
    parser.add_argument("b", type=Path, metavar="B", help="the other")
    parser.add_argument(
        "--sae",
        action="append",
        default=[],
        metavar="NAME",
        help="compare its features only; may be repeated",
    )
    parser.add_argument(
        "--top", type=int, metavar="N", help="features of each direction at most (default: 20)"
    )
    parser.add_argument(
        "--rate", type=float, metavar="X", help="the share of false discoveries put up with (default: 0.05)"
    )
    parser.add_argument(
        "--mean", action="store_true", help="compare a text's mean activation instead of its largest"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="deals the texts to the halves")
    parser.add_argument("--special", action="store_true", help="count special tokens and the first as well")
    parser.add_argument("--max-seconds", type=float, default=0.0, metavar="S", help="then tell what is done")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    arguments.add_address(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print two tables, or one JSON object."""
    call = ContrastCall(
        a=read_texts(options.a),
        b=read_texts(options.b),
        saes=tuple(options.sae),
        strength="mean" if options.mean else "peak",
        false_discovery_rate=options.rate,
        top=options.top,
        seed=options.seed,
        include_special_tokens=options.special,
        max_seconds=options.max_seconds,
    )
    with FeatureClient(options.address) as client:
        contrast = client.contrast(call, progress_teller())
    console = open_console()
    if options.json:
        console.print_json(json.dumps(asdict(contrast)))
        return 0
    console.print(summary_line(contrast))
    fewest = min(count.discovery_texts for count in (contrast.a, contrast.b))
    if contrast.complete and not contrast.found and fewest < _FEW_TEXTS // 2:
        print_warnings([f"so few texts hardly show a difference: {_FEW_TEXTS} or more of each do"])
    sides: tuple[tuple[SetName, Path], ...] = (("a", options.a), ("b", options.b))
    for side, path in sides:
        features = [feature for feature in contrast.features if feature.more_in == side]
        if features:
            console.print(contrast_table(f"More in {side.upper()}, {path.name}", features))
    return 0


def summary_line(contrast: Contrast) -> str:
    """What was read, and how many features were tested, found and confirmed."""
    texts = [count.discovery_texts + count.held_out_texts for count in (contrast.a, contrast.b)]
    return (
        f"{'' if contrast.complete else 'stopped early: '}{texts[0]} texts of A, {texts[1]} of B; "
        f"{contrast.tested} features tested, {contrast.found} differ in one half of the texts, "
        f"{contrast.confirmed} of them in the other half too"
    )


def contrast_table(title: str, features: Sequence[ContrastedFeature]) -> Table:
    """A row a feature, dim unless it was confirmed; rates and peaks are those of the held-out half."""
    table = Table("feature", "label", title=title, title_justify="left")
    for heading in ("fires in A", "in B", "peak in A", "in B", "effect", "q", "held-out effect", "q"):
        table.add_column(heading, justify="right")
    for found in features:
        held_out = found.held_out
        table.add_row(
            named(found.feature),
            label_text(found.label) if found.label else "",
            f"{held_out.a.text_rate:.0%}",
            f"{held_out.b.text_rate:.0%}",
            f"{held_out.a.mean_peak:.2f}",
            f"{held_out.b.mean_peak:.2f}",
            _effect(found.discovery.cliffs_delta),
            f"{found.q_value:.1e}",
            _effect(held_out.cliffs_delta),
            f"{found.held_out_q_value:.1e}",
            style="" if found.confirmed else "dim",
        )
    return table


def _effect(cliffs_delta: float) -> Text:
    return Text(f"{cliffs_delta:+.2f}", style=shade(abs(cliffs_delta), 1.0))
