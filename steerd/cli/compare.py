"""`steerd compare`: what pushes a right and a wrong answer, and what little makes the right one win."""

from __future__ import annotations

import argparse
import json

from steerd.cli import steered_text
from steerd.cli.answer_tables import (
    as_record,
    features_table,
    flip_lines,
    flip_table,
    left_out_lines,
    no_flip_line,
)
from steerd.cli.study_progress import progress_teller
from steerd.cli.terminal import open_console, print_warnings
from steerd.feature_client import FeatureClient
from steerd.study_wire.answers import AnswersCall
from steerd.study_wire.study_text import StudyText

CONTROLS = (
    "Water boils at a temperature of one hundred degrees",
    "She opened the door and walked into the garden",
    "The meeting will take place on Monday morning",
)
"""Texts about nothing in particular, on which side effects are measured unless others are named."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    parser = commands.add_parser(
        "compare",
        help="find what pushes a right and a wrong answer, and what makes the right one win",
        description="Ablate the features that matter most for two answers to a text, one at a time, and look "
        "for the fewest interventions that make the right answer win. All effects are measured.",
        epilog="example: steerd compare --raw 'The capital of Spain is' --right ' Madrid' --wrong ' Seville'",
    )
    steered_text.add_text(parser, continued=False)
    parser.add_argument("--right", required=True, metavar="TEXT", help="the right answer")
    parser.add_argument("--wrong", required=True, metavar="TEXT", help="a wrong one")
    parser.add_argument(
        "--sae",
        action="append",
        default=[],
        metavar="NAME",
        help="look at its features only; may be repeated",
    )
    parser.add_argument("--features", type=int, metavar="N", help="ablate N features (default: 24)")
    parser.add_argument("--additions", type=int, metavar="N", help="try to add N features too (default: 8)")
    parser.add_argument(
        "--dose", type=float, metavar="X", help="add X times a feature's recorded maximum (default: 0.5)"
    )
    parser.add_argument(
        "--max-moves", type=int, metavar="N", help="add up N interventions one by one (default: 6)"
    )
    parser.add_argument(
        "--min-effect",
        type=float,
        metavar="X",
        help="what a feature must take from an answer to push it (default: 0.1)",
    )
    parser.add_argument(
        "--control",
        action="append",
        metavar="TEXT",
        help="a text to measure side effects on; may be repeated",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the answers, the features and the flip, or one JSON object."""
    asked = steered_text.steered_text(options)
    controls = CONTROLS if options.control is None else options.control
    call = AnswersCall(
        text=asked.text,
        right=options.right,
        wrong=options.wrong,
        saes=tuple(options.sae),
        max_features=options.features,
        additions=options.additions,
        dose=options.dose,
        max_moves=options.max_moves,
        min_effect=options.min_effect,
        interventions=asked.interventions,
        presets=asked.presets,
        unit=asked.unit,
        controls=tuple(StudyText(prompt=control) for control in controls),
        max_seconds=options.max_seconds,
    )
    with FeatureClient(options.address) as client:
        found = client.answers(call, progress_teller())
    console = open_console()
    if options.json:
        console.print(json.dumps(as_record(found)), soft_wrap=True)
        return 0
    steered_text.print_steering(found.steering, complete=found.complete)
    if found.right is None or found.wrong is None:
        return 0
    for name, answer, score in (("right", options.right, found.right), ("wrong", options.wrong, found.wrong)):
        console.print(f"{name} {answer!r}: log-probability {score.logprob:.3f}, logit {score.logit:+.2f}")
    if found.features:
        console.print(features_table(found))
    print_warnings(left_out_lines(found.left_out))
    if found.flip is not None:
        console.print(flip_table(found.flip))
        for line in flip_lines(found.flip, controls):
            console.print(line)
    else:
        console.print(no_flip_line(found.right, found.wrong, found))
    return 0
