"""`steerd generate`: one generation, streamed to the terminal and coloured by a feature's activation."""

from __future__ import annotations

import argparse

from rich.console import Console

from steerd.cli import arguments, condition_options, steering_options
from steerd.cli.fired_lines import fired_line, receipt_lines
from steerd.cli.labels import served_labels
from steerd.cli.stream import show_stream
from steerd.cli.tables import (
    after_edit_table,
    divergence_line,
    peaks,
    peaks_table,
    receipt_table,
    speed_line,
    summary_table,
)
from steerd.cli.terminal import open_console, print_warnings
from steerd.client import Client
from steerd.client_messages import ChatTurn, GenerateCall, Generation

_SHOWN_PEAKS = 10


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    parser = commands.add_parser(
        "generate",
        help="generate from a prompt, steered",
        description="Generate from a prompt and steer features meanwhile. The text goes to standard output, "
        "coloured by the first watched or steered feature; everything else goes to standard error.",
        epilog="example: steerd generate 'Tell me about your day.' --add starter-14:1234=8 --baseline",
    )
    parser.add_argument("prompt", metavar="PROMPT", help="what the user says")
    arguments.add_address(parser)
    _add_input(parser)
    steering_options.add_steering(parser)
    condition_options.add_triggers(parser)
    _add_reading(parser)
    _add_sampling(parser)
    parser.set_defaults(run=run)


def _add_input(parser: argparse.ArgumentParser) -> None:
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--raw", action="store_true", help="continue the prompt as plain text, no chat")
    form.add_argument("--system", metavar="TEXT", help="a system message before the prompt")
    parser.add_argument(
        "--baseline", action="store_true", help="generate without steering beside it, to compare"
    )


def _add_reading(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("reading")
    group.add_argument(
        "--watch",
        type=arguments.feature,
        action="append",
        default=[],
        metavar="SAE:FEATURE",
        help="read this feature",
    )
    group.add_argument(
        "--after-edit",
        action="store_true",
        help="tell what watched features read after the edits too",
    )
    group.add_argument(
        "--top-features", type=int, default=0, metavar="N", help="read each SAE's N most active per token"
    )
    group.add_argument(
        "--top-features-of",
        action="append",
        default=[],
        metavar="SAE",
        help="only of this SAE; may be repeated (default: of all that are served)",
    )


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("sampling (default: the server's)")
    group.add_argument("--max-new-tokens", type=int, metavar="N")
    group.add_argument("--temperature", type=float, metavar="T", help="0 is greedy")
    group.add_argument("--top-p", type=float, metavar="P")
    group.add_argument("--top-k", type=int, metavar="K")
    group.add_argument("--seed", type=int)
    group.add_argument("--stop", action="append", default=[], metavar="TEXT", help="may be repeated")


def run(options: argparse.Namespace) -> int:
    """Generate, and tell afterwards what the same request gives unsteered if asked."""
    call = generate_call(options)
    text = open_console()
    rest = open_console(stderr=True)
    with Client(options.address) as client:
        if options.baseline:
            rest.rule("With steering", align="left")
        generation = show_stream(client, call, text)
        if generation.baseline is not None:
            rest.rule("Without steering", align="left")
            text.print(generation.baseline.text, markup=False, highlight=False, soft_wrap=True)
        report(client, call, generation, rest)
    return 0


def generate_call(options: argparse.Namespace) -> GenerateCall:
    """The call that the options ask for. Steered and tested features are watched, so that it shows why."""
    steering = steering_options.interventions(options)
    system = (ChatTurn("system", options.system),) if options.system else ()
    return GenerateCall(
        prompt=options.prompt if options.raw else None,
        chat=() if options.raw else (*system, ChatTurn("user", options.prompt)),
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        top_p=options.top_p,
        top_k=options.top_k,
        seed=options.seed,
        stop=tuple(options.stop),
        interventions=steering,
        presets=tuple(options.preset),
        unit=steering_options.unit(options),
        watch=tuple(
            dict.fromkeys(
                [
                    *options.watch,
                    *steering_options.steered_features(steering),
                    *condition_options.tested_features(options),
                ]
            )
        ),
        triggers=condition_options.triggers(options),
        top_features=options.top_features,
        top_features_of=tuple(options.top_features_of),
        after_edit=options.after_edit,
        baseline=options.baseline,
    )


def report(client: Client, call: GenerateCall, generation: Generation, console: Console) -> None:
    """Tables of what the features did, and the speed."""
    for what, applied in (("presets", generation.started.presets), ("policies", generation.started.policies)):
        if applied:
            console.print(f"{what}: {', '.join(map(str, applied))}", style="dim")
    print_warnings(generation.started.warnings)
    for line in _fired(call, generation):
        console.print(line, markup=False)
    strongest = peaks(generation.readings)[:_SHOWN_PEAKS]
    shown = [use.feature for use in generation.completed.features]
    labels = served_labels(client.address, [*call.watch, *shown, *(peak.feature for peak in strongest)])
    if generation.completed.features:
        console.print(summary_table(generation.completed, labels))
    if call.after_edit:
        console.print(after_edit_table(generation.readings, labels))
    if generation.started.interventions:
        console.print(receipt_table(generation.started.interventions, generation.completed.receipt))
    if call.top_features:
        texts = {token.position: token.text for token in generation.tokens}
        console.print(peaks_table(strongest, texts, labels))
    if generation.completed.baseline is not None:
        console.print(divergence_line(generation.completed.baseline), style="dim")
    console.print(speed_line(generation.completed), style="dim")


def _fired(call: GenerateCall, generation: Generation) -> list[str]:
    """Lines of what fired: the call's own with all their places, others as the receipt has them."""
    texts = {token.position: token.text for token in generation.tokens}
    names = {trigger.name for trigger in call.triggers}
    own = tuple(firing for firing in generation.fired if firing.trigger in names)
    lines = [fired_line(own, call.triggers, texts)] if own else []
    return [*lines, *receipt_lines(generation.completed.receipt)]
