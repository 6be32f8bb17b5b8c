"""What the commands about one steered text share: its options, and what is told of its steering."""

from __future__ import annotations

import argparse
import re
from typing import Any

from steerd.cli import arguments, steering_options
from steerd.cli.fired_lines import receipt_lines
from steerd.cli.tables import edit_text, receipt_table
from steerd.cli.terminal import open_console, print_warnings
from steerd.client_messages import ChatTurn
from steerd.steering.scope import PositionRange
from steerd.studies.applied_steering import AppliedSteering
from steerd.study_wire.steered_text import SteeredStudyText
from steerd.study_wire.study_text import StudyText

_STRETCH = re.compile(r"(-?\d+)|(-?\d+)?:(-?\d+)?")


def add_text(parser: argparse.ArgumentParser, *, continued: bool = True) -> None:
    """The text, what steers it, and how the answer is printed; if `continued`, what may follow it."""
    parser.add_argument("text", metavar="TEXT", help="what the user says")
    arguments.add_address(parser)
    parser.add_argument("--raw", action="store_true", help="take the text as plain text, no chat")
    if continued:
        help_text = "what follows it, as if it had been generated"
        parser.add_argument("--continuation", metavar="TEXT", help=help_text)
    else:
        parser.set_defaults(continuation=None)
    parser.add_argument("--max-seconds", type=float, default=0.0, metavar="S", help="then tell what is done")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    steering_options.add_steering(parser)


def add_positions(parser: argparse.ArgumentParser) -> None:
    """Which tokens are looked at."""
    parser.add_argument(
        "--at",
        type=stretch,
        action="append",
        default=[],
        metavar="FROM:TO",
        help="look at these tokens, counted from 0 or with --at=-5: from the end; may be repeated "
        "(default: the last)",
    )


def stretch(text: str) -> PositionRange:
    """`5`, `2:8`, `:8`, `-5:`, or `:` for all."""
    match = _STRETCH.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected a position, or FROM:TO, for example -5: ; got {text!r}")
    if match[1] is not None:
        position = int(match[1])
        return PositionRange(position, None if position == -1 else position + 1)
    return PositionRange(int(match[2] or 0), None if match[3] is None else int(match[3]))


def steered_text(options: argparse.Namespace) -> SteeredStudyText:
    """The text that the options name, as a chat unless it is raw."""
    raw = StudyText(prompt=options.text)
    return SteeredStudyText(
        text=raw if options.raw else StudyText(chat=(ChatTurn("user", options.text),)),
        continuation=options.continuation,
        interventions=steering_options.interventions(options),
        presets=tuple(options.preset),
        unit=steering_options.unit(options),
    )


def print_steering(steering: AppliedSteering, *, complete: bool) -> None:
    """What the client should know of the steering and of the study, apart from what was asked for."""
    print_warnings(steering.warnings)
    if not complete:
        print_warnings(["the study was ended early; something is missing"])
    if steering.interventions:
        open_console().print(receipt_table(steering.interventions, steering.receipt))
    for line in receipt_lines(steering.receipt):
        open_console().print(line, markup=False)


def steering_record(steering: AppliedSteering) -> dict[str, Any]:
    """The steering as JSON."""
    parts = zip(steering.interventions, steering.receipt.interventions, strict=False)
    return {
        "interventions": [
            {"what": edit_text(edit), "tokens": part.rows, "changed": part.rows_changed}
            for edit, part in parts
        ],
        "presets": [str(named) for named in steering.presets],
        "policies": [str(named) for named in steering.policies],
        "warnings": list(steering.warnings),
        "plan_hash": steering.plan_hash,
    }
