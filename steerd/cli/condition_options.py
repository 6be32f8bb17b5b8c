"""The options that make steering, or an end, depend on features."""

from __future__ import annotations

import argparse
from math import inf

from steerd.cli import arguments
from steerd.steering.intervention import Condition, FeatureRef, FeatureTest
from steerd.steering.trigger import Flag, Stop, Switch, Trigger


def add_condition(parser: argparse.ArgumentParser) -> None:
    """On which tokens there is steering, by the features of these tokens."""
    group = parser.add_argument_group("steering only where features are active")
    group.add_argument(
        "--when",
        type=arguments.numbered,
        action="append",
        default=[],
        metavar="SAE:FEATURE=NUMBER",
        help="only on tokens where the feature is above the number; repeated, where all are",
    )
    how_long = group.add_mutually_exclusive_group()
    how_long.add_argument(
        "--release-below",
        type=float,
        metavar="NUMBER",
        help="and on from there until it is at or below this number",
    )
    how_long.add_argument("--from-first", action="store_true", help="and on from there to the end")


def add_triggers(parser: argparse.ArgumentParser) -> None:
    """What happens when a feature fires."""
    group = parser.add_argument_group("when a feature comes to be above a number (each may be repeated)")
    for name, text in (("--stop-on", "end the text with that token"), ("--flag-on", "tell where")):
        group.add_argument(
            name,
            type=arguments.numbered,
            action="append",
            default=[],
            metavar="SAE:FEATURE=NUMBER",
            help=text,
        )
    group.add_argument(
        "--switch-on",
        type=arguments.switch,
        action="append",
        default=[],
        metavar="SAE:FEATURE=NUMBER:PRESET",
        help="from the next token on, steer by this preset of the server instead",
    )


def condition(options: argparse.Namespace) -> Condition | None:
    """Where there is steering, the same for all interventions; None for everywhere."""
    if not options.when:
        return None
    return Condition((tuple(_test(feature, above, options) for feature, above in options.when),))


def triggers(options: argparse.Namespace) -> tuple[Trigger, ...]:
    """One for each feature to stop on, to switch on and to flag."""
    wanted: list[tuple[FeatureRef, float, Stop | Switch | Flag]] = [
        *((feature, above, Stop()) for feature, above in options.stop_on),
        *((feature, above, Switch(preset)) for feature, above, preset in options.switch_on),
        *((feature, above, Flag()) for feature, above in options.flag_on),
    ]
    found = []
    for number, (feature, above, action) in enumerate(wanted):
        test = FeatureTest(target=feature, above=above, release_below=above)
        found.append(Trigger(f"trigger-{number}", Condition(((test,),)), action))
    return tuple(found)


def tested_features(options: argparse.Namespace) -> list[FeatureRef]:
    """The features that something depends on."""
    tested = (*options.when, *options.stop_on, *options.switch_on, *options.flag_on)
    return [feature for feature, *_ in tested]


def _test(feature: FeatureRef, above: float, options: argparse.Namespace) -> FeatureTest:
    release = above if options.release_below is None else options.release_below
    return FeatureTest(target=feature, above=above, release_below=-inf if options.from_first else release)
