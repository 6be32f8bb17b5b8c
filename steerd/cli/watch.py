"""`steerd watch`: the features that a server exports as metrics, shown and changed while it runs."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table

from steerd.cli import arguments
from steerd.cli.labels import starter_labels
from steerd.cli.tables import named
from steerd.cli.terminal import open_console
from steerd.client import Client
from steerd.client_views import Watched
from steerd.errors import ConfigError
from steerd.steering.intervention import FeatureRef

_LONGEST_ALIAS = 40


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    parser = commands.add_parser(
        "watch",
        help="show or change the features that a server exports as metrics",
        description="Without an action, list them. A feature is named SAE:FEATURE or SAE:FEATURE=ALIAS; "
        "words look for features whose label has all of them.",
        epilog="example: steerd watch add music    steerd watch add starter-14:1234=tea --hot",
    )
    parser.add_argument("action", nargs="?", choices=("get", "set", "add", "remove"), default="get")
    parser.add_argument("items", nargs="*", metavar="FEATURE|WORD|ALIAS", help="aliases are for remove")
    parser.add_argument(
        "--limit",
        type=int,
        default=5,
        metavar="N",
        help="features found by words at most (default: %(default)s)",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.0,
        metavar="X",
        help="activation above which tokens are counted apart",
    )
    parser.add_argument("--hot", action="store_true", help="export each request's largest activation too")
    parser.add_argument(
        "--labels",
        type=Path,
        action="append",
        default=[],
        metavar="FOLDER",
        help="an SAE folder to search too",
    )
    arguments.add_address(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Change the list if that is asked for, and print it."""
    with Client(options.address) as client:
        labels = starter_labels(client.saes(), options.labels)
        before = client.watch_list()
        if options.action != "get":
            client.set_watch_list(_changed(options, before, labels))
        table = _table(client.watch_list(), labels)
    open_console().print(table)
    return 0


def _changed(
    options: argparse.Namespace, before: Sequence[Watched], labels: Mapping[FeatureRef, str]
) -> list[Watched]:
    if options.action == "remove":
        unknown = set(options.items) - {watched.alias for watched in before}
        if unknown:
            raise ConfigError(f"nothing is watched as {', '.join(sorted(unknown))}")
        return [watched for watched in before if watched.alias not in options.items]
    found = _wanted(options.items, labels, options.limit)
    new = [Watched(ref, alias, options.threshold, options.hot) for ref, alias in found.items()]
    kept = [watched for watched in before if watched.feature not in found] if options.action == "add" else []
    return [*kept, *new]


def _wanted(items: Sequence[str], labels: Mapping[FeatureRef, str], limit: int) -> dict[FeatureRef, str]:
    """The features that are named and those that the words find, each with its alias."""
    wanted, words = {}, []
    for item in items:
        name, _, alias = item.partition("=")
        if ":" in name:
            ref = arguments.feature(name)
            wanted[ref] = alias or alias_of(ref, labels.get(ref, ref.sae))
        else:
            words.append(item.casefold())
    if words:
        matches = [ref for ref, label in labels.items() if all(word in label.casefold() for word in words)]
        if not matches:
            raise ConfigError(f"no served feature has a label with {' '.join(words)!r}")
        wanted |= {ref: alias_of(ref, labels[ref]) for ref in matches[:limit]}
    return wanted


def alias_of(feature: FeatureRef, label: str) -> str:
    """A name for dashboards: of a label what an alias may have, and the feature's number to tell it apart."""
    number = f"_{feature.index}"
    words = re.sub(r"[^a-z0-9]+", "_", label.casefold()).strip("_")
    return words[: _LONGEST_ALIAS - len(number)].rstrip("_") + number


def _table(watched: Sequence[Watched], labels: Mapping[FeatureRef, str]) -> Table:
    table = Table("alias", "feature", "threshold", "hot", "label")
    for each in watched:
        hot = "hot" if each.hot else ""
        label = labels.get(each.feature, "")
        table.add_row(each.alias, named(each.feature), f"{each.threshold:g}", hot, label)
    return table
