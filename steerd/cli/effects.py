"""`steerd effects`: what ablating features changes in the likelihood of each token of a text."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from steerd.cli import arguments, steered_text
from steerd.cli.effect_page import render_effects
from steerd.cli.label_text import label_text
from steerd.cli.study_progress import progress_teller
from steerd.cli.tables import named
from steerd.cli.terminal import open_console
from steerd.cli.token_painter import painted, painted_changes
from steerd.feature_client import FeatureClient
from steerd.studies.effect_table import EffectTable, FeatureEffect
from steerd.study_wire.effects import EffectsCall


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    parser = commands.add_parser(
        "effects",
        help="tell what ablating features changes for each token of a text",
        description="Ablate features one by one everywhere in a text, and show how active each is and how "
        "much less (blue) or more (red) likely every token gets, given those before it.",
        epilog="example: steerd effects 'Will it rain?' --continuation ' It will pour.' "
        "--feature starter-14:1234 --html effects.html",
    )
    steered_text.add_text(parser)
    parser.add_argument(
        "--feature",
        type=arguments.feature,
        action="append",
        required=True,
        metavar="SAE:FEATURE",
        help="ablate this feature; may be repeated",
    )
    parser.add_argument("--special", action="store_true", help="ablate on special tokens too")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with the coloured text")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the coloured text twice a feature, or one JSON object; write the page if one is wanted."""
    call = EffectsCall(
        steered=steered_text.steered_text(options),
        features=tuple(options.feature),
        include_special_tokens=options.special,
        max_seconds=options.max_seconds,
    )
    with FeatureClient(options.address) as client:
        table = client.effects(call, progress_teller())
    if options.html is not None:
        options.html.write_text(render_effects(table, title="Effects of features"), encoding="utf-8")
    console = open_console()
    if options.json:
        console.print(json.dumps(record(table)), soft_wrap=True)
        return 0
    for effect in table.effects:
        _show(table, effect, console)
    steered_text.print_steering(table.steering, complete=table.complete)
    return 0


def record(table: EffectTable) -> dict[str, object]:
    """The result as JSON."""
    effects = [asdict(effect) | {"total_change": effect.total_change} for effect in table.effects]
    return asdict(table) | {
        "effects": effects,
        "steering": steered_text.steering_record(table.steering),
    }


def _show(table: EffectTable, effect: FeatureEffect, console: Console) -> None:
    label = label_text(effect.label) if effect.label else ""
    console.rule(f"{named(effect.feature)} {label}", align="left")
    active = sum(value > 0 for value in effect.activations)
    if not active:
        console.print("nowhere active, so its ablation changes nothing", style="dim")
        return
    highest = table.strongest(effect)
    console.print(f"active at {active} tokens, on ordinary ones at most {highest:.2f}", style="dim")
    console.print(
        painted(table.token_texts, [min(value, highest) for value in effect.activations]), soft_wrap=True
    )
    largest = max(map(abs, effect.changes))
    console.print(
        f"log-probability without it: {effect.total_change:+.3f}, of one token at most {largest:.3f}",
        style="dim",
    )
    console.print(painted_changes(table.token_texts, effect.changes), soft_wrap=True)
