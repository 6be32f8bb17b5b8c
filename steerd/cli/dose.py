"""`steerd dose`: what steering by a feature does at each strength, and how much to take."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from steerd.cli import arguments
from steerd.cli.tables import named
from steerd.cli.terminal import open_console
from steerd.cli.text_files import read_texts
from steerd.cli.token_painter import shade
from steerd.client_messages import ChatTurn, Unit
from steerd.engine.study import Progress
from steerd.feature_client import FeatureClient
from steerd.studies.dose_curve import DoseCurve, DosePoint
from steerd.study_wire.evaluate import EvaluateCall
from steerd.study_wire.study_text import StudyText

_UNITS = {unit.value: unit for unit in Unit}
_SHOWN_CHARACTERS = 60
_SHOWN_TOKENS = 10


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    parser = commands.add_parser(
        "dose",
        help="find how strongly to steer by a feature",
        description="Have prompts answered at several strengths of a feature, read the answers without "
        "steering, and tell the best strength and the range in which they stay good.",
        epilog="example: steerd dose starter-14:1234",
    )
    parser.add_argument("feature", type=arguments.feature, metavar="SAE:FEATURE")
    arguments.add_address(parser)
    parser.add_argument(
        "--strengths", type=float, nargs="+", default=[], metavar="X", help="default: six of the server's"
    )
    parser.add_argument("--unit", choices=_UNITS, help="of strengths (default: feature-max where known)")
    parser.add_argument("--set", action="store_true", help="set the feature instead of adding to it")
    _add_texts(parser)
    parser.add_argument("--max-new-tokens", type=int, metavar="N", help="of each answer (default: 32)")
    parser.add_argument("--temperature", type=float, metavar="T", help="of the answers (default: 0.7)")
    parser.add_argument("--controls", type=int, metavar="N", help="features to compare with (default: 1)")
    parser.add_argument("--refine", type=int, metavar="N", help="more strengths near the edge (default: 2)")
    parser.add_argument("--max-seconds", type=float, default=0.0, metavar="S", help="then tell what is done")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=run)


def _add_texts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--prompt", action="append", default=[], metavar="TEXT", help="what is answered; may be repeated"
    )
    parser.add_argument("--raw", action="store_true", help="take prompts as plain text, no chat")
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="prompts from a file, as `encode` does")
    parser.add_argument(
        "--control-texts", type=Path, metavar="FILE", help="texts that steering should leave alone"
    )


def run(options: argparse.Namespace) -> int:
    """Print the table and what follows from it, or one JSON object."""
    rest = open_console(stderr=True)

    def told(progress: Progress) -> None:
        if rest.is_terminal:
            rest.print(f"{progress.done} of at most {progress.total} {progress.unit}", style="dim")

    with FeatureClient(options.address) as client:
        curve = client.evaluate(evaluate_call(options), told)
    console = open_console()
    if options.json:
        console.print_json(json.dumps(record(curve)))
        return 0
    tokens = ", ".join(repr(token) for token in curve.promoted[:_SHOWN_TOKENS])
    console.print(f"{named(curve.feature)}: output score {curve.output_score:.3g}; promotes {tokens}")
    console.print(curve_table(curve))
    for line in advice(curve):
        console.print(line)
    return 0


def evaluate_call(options: argparse.Namespace) -> EvaluateCall:
    """The call that the options ask for."""
    prompts = [
        StudyText(prompt=text) if options.raw else StudyText(chat=(ChatTurn("user", text),))
        for text in options.prompt
    ]
    if options.prompts is not None:
        prompts += read_texts(options.prompts)
    return EvaluateCall(
        feature=options.feature,
        prompts=tuple(prompts),
        strengths=tuple(options.strengths),
        unit=_UNITS[options.unit] if options.unit else None,
        sets=options.set,
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        control_texts=read_texts(options.control_texts) if options.control_texts is not None else (),
        control_features=options.controls,
        refinements=options.refine,
        max_seconds=options.max_seconds,
    )


def record(curve: DoseCurve) -> dict[str, Any]:
    """The curve as JSON, with the strengths that follow from it."""
    safe, best = curve.safe_up_to, curve.sweet_spot
    return asdict(curve) | {
        "safe_up_to": None if safe is None else safe.strength,
        "sweet_spot": None if best is None else best.strength,
    }


def curve_table(curve: DoseCurve) -> Table:
    """A row a strength, the unsteered answers first; marked are the best, dim those that are not safe."""
    table = Table(title="Answers at each strength, read without steering", title_justify="left")
    for heading in ("strength", "x max", "x norm", "concept", "control", "promoted", "surprise"):
        table.add_column(heading, justify="right")
    for heading in ("repeats", "KL", "side KL", "fluency", "score"):
        table.add_column(heading, justify="right")
    table.add_column("first answer")
    plain = curve.plain
    table.add_row(
        "0",
        "",
        "",
        f"{plain.concept:.2f}",
        "",
        f"{plain.promoted_share:.0%}",
        f"{plain.surprise:.2f}",
        f"{plain.repetition:.0%}",
        *[""] * 4,
        _brief(curve.plain_sample),
    )
    for point in curve.points:
        table.add_row(*_cells(point), style="" if point.is_safe else "dim")
    return table


def _cells(point: DosePoint) -> list[str | Text]:
    text = point.text
    return [
        f"{point.strength:.4g}",
        f"{point.feature_max:.3g}" if point.feature_max else "",
        f"{point.resid_norm:.3g}",
        f"{text.concept:.2f}",
        "" if point.control is None else f"{point.control.concept:.2f}",
        f"{text.promoted_share:.0%}",
        f"{text.surprise:.2f}",
        f"{text.repetition:.0%}",
        f"{point.next_token.kl:.2g}",
        f"{point.next_token.side_kl:.2g}",
        f"{point.fluency:.2f}",
        Text(f"{point.score:.2f}", style=shade(point.score, 1.0)),
        _brief(point.sample),
    ]


def advice(curve: DoseCurve) -> list[str]:
    """The sweet spot and the safe range, in all units."""
    if not curve.points:
        return ["stopped early: no strength was tried to the end"]
    lines = [] if curve.complete else ["stopped early: not all strengths were tried"]
    best, safe = curve.sweet_spot, curve.safe_up_to
    lines.append(f"sweet spot: {_in_all_units(best)}" if best else "no safe strength has an effect")
    smallest = "not even the smallest strength is safe"
    lines.append(f"safe up to: {_in_all_units(safe)}" if safe else smallest)
    return lines


def _in_all_units(point: DosePoint) -> str:
    maxima = f"{point.feature_max:.3g} x the feature's maximum, " if point.feature_max else ""
    return f"{point.strength:.4g} ({maxima}{point.resid_norm:.3g} x the median residual norm)"


def _brief(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN_CHARACTERS else f"{line[:_SHOWN_CHARACTERS]}..."
