"""`steerd score`: how likely continuations of a prompt are, steered and not."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rich.table import Table

from steerd.cli import arguments, steering_options
from steerd.cli.terminal import open_console, print_warnings
from steerd.client import Client
from steerd.client_messages import ChatTurn, ScoreCall, ScoredText


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    parser = commands.add_parser(
        "score",
        help="tell how likely continuations are, steered",
        description="Tell the log-probability of each continuation of a prompt, with and without steering.",
        epilog="example: steerd score --raw 'The sky is' ' blue' ' green' --add starter-14:1234=8",
    )
    parser.add_argument("prompt", metavar="PROMPT", help="what comes before")
    parser.add_argument("continuations", metavar="CONTINUATION", nargs="+", help="what may follow")
    arguments.add_address(parser)
    parser.add_argument("--raw", action="store_true", help="take the prompt as plain text, no chat")
    steering_options.add_steering(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Score, and without steering as well if there is any."""
    interventions = steering_options.interventions(options)
    call = ScoreCall(
        prompt=options.prompt if options.raw else None,
        chat=() if options.raw else (ChatTurn("user", options.prompt),),
        continuations=tuple(options.continuations),
        interventions=interventions,
        presets=tuple(options.preset),
        unit=steering_options.unit(options),
        baseline=bool(interventions or options.preset),
    )
    with Client(options.address) as client:
        scores = client.score(call)
    print_warnings(scores.warnings)
    open_console().print(scores_table(options.continuations, scores.texts))
    return 0


def scores_table(continuations: Sequence[str], scores: Sequence[ScoredText]) -> Table:
    """A row for each continuation: tokens, log-probability, and what steering changed of it."""
    table = Table("continuation", "tokens", "log-probability", "unsteered", "change", title_justify="left")
    for text, score in zip(continuations, scores, strict=True):
        baseline, change = "", ""
        if score.baseline_logprobs:
            baseline = f"{score.baseline_total_logprob:.3f}"
            change = f"{score.total_logprob - score.baseline_total_logprob:+.3f}"
        table.add_row(repr(text), str(len(score.token_ids)), f"{score.total_logprob:.3f}", baseline, change)
    return table
