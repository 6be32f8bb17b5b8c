"""The options that say what is steered, where and for how long."""

from __future__ import annotations

import argparse
from dataclasses import replace

from steerd.cli import arguments, condition_options
from steerd.client_messages import Unit
from steerd.steering.intervention import (
    Ablate,
    Add,
    FeatureRef,
    Intervention,
    Reconstruct,
    Scale,
    Set,
    WholeSae,
)
from steerd.steering.scope import Phase, Schedule, Scope

_PHASES = {phase.value: phase for phase in Phase}
_UNITS = {unit.value: unit for unit in Unit}


def add_steering(parser: argparse.ArgumentParser) -> None:
    """What is done to which feature, and to how much of the stream."""
    group = parser.add_argument_group("steering (each may be repeated)")
    for name, read, metavar, text in (
        ("--add", arguments.edit(Add), "SAE:FEATURE=NUMBER", "add a multiple of the feature's direction"),
        ("--set", arguments.edit(Set), "SAE:FEATURE=NUMBER", "set the feature's activation"),
        ("--scale", arguments.edit(Scale), "SAE:FEATURE=NUMBER", "multiply the feature's activation"),
        (
            "--limit",
            arguments.limit,
            "SAE:FEATURE=MIN:MAX",
            "keep the activation within bounds; either may be left out",
        ),
        ("--ablate", lambda text: (arguments.feature(text), Ablate()), "SAE:FEATURE", "remove the feature"),
        (
            "--reconstruct",
            lambda text: (WholeSae(text), Reconstruct()),
            "SAE",
            "keep only what the SAE explains",
        ),
    ):
        group.add_argument(name, type=read, action="append", dest="edits", metavar=metavar, help=text)
    group.add_argument(
        "--preset",
        action="append",
        default=[],
        metavar="NAME",
        help="apply a preset of the server (see steerd presets): NAME for its last version, or NAME@VERSION",
    )
    how = parser.add_argument_group("how steering is done")
    how.add_argument(
        "--unit",
        choices=_UNITS,
        default=Unit.ACTIVATION.value,
        help="of --add, --set, --limit, --when and what is fired on: the SAE's activations (default), "
        "the feature's recorded maximum, or the median length of the residual stream",
    )
    how.add_argument("--only-if-active", action="store_true", help="--set only where the feature is active")
    how.add_argument("--preserve-norm", action="store_true", help="give edited rows back their length")
    _add_scope(parser)
    condition_options.add_condition(parser)


def _add_scope(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("where and when steering is done (default: everywhere)")
    group.add_argument(
        "--phase", choices=_PHASES, default=Phase.ALL.value, help="tokens to edit (default: all)"
    )
    group.add_argument("--special-tokens", action="store_true", help="edit special tokens (chat markers) too")
    group.add_argument(
        "--role", action="append", default=[], help="only messages of this role; may be repeated"
    )
    for name, text in (
        ("--first-n", "only the first N tokens of the phase"),
        ("--last-n", "only the last N tokens of the prompt, with --phase prompt"),
        ("--start-after", "nothing on the first N tokens of the phase"),
        ("--ramp", "grow to full strength over N tokens"),
        ("--at-most", "edit at most N tokens"),
    ):
        group.add_argument(name, type=arguments.count, default=0, metavar="N", help=text)
    group.add_argument("--half-life", type=float, default=0.0, metavar="N", help="then halve every N tokens")


def interventions(options: argparse.Namespace) -> tuple[Intervention, ...]:
    """What the options ask for, in their order; scope, schedule and condition are the same for all."""
    scope = Scope(
        phase=_PHASES[options.phase],
        include_special_tokens=options.special_tokens,
        first_n=options.first_n,
        last_n=options.last_n,
        roles=tuple(options.role),
    )
    schedule = Schedule(
        start_after=options.start_after,
        ramp=options.ramp,
        half_life=options.half_life,
        at_most=options.at_most,
    )
    condition = condition_options.condition(options)
    return tuple(
        Intervention(
            target=target,
            operation=replace(operation, only_if_active=options.only_if_active)
            if isinstance(operation, Set)
            else operation,
            scope=scope,
            schedule=schedule,
            condition=condition,
            preserve_norm=options.preserve_norm,
        )
        for target, operation in options.edits or ()
    )


def unit(options: argparse.Namespace) -> Unit:
    """What strengths, values and limits are measured in."""
    return _UNITS[options.unit]


def steered_features(steering: tuple[Intervention, ...]) -> list[FeatureRef]:
    """The features among the targets."""
    return [edit.target for edit in steering if isinstance(edit.target, FeatureRef)]
