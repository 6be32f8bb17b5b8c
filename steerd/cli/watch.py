"""`steerd watch`: the features that a server exports as metrics, shown and changed while it runs."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence

from rich.table import Table

from steerd.cli import arguments
from steerd.cli.labels import Labels, label_of, served_labels
from steerd.cli.tables import named
from steerd.cli.terminal import open_console
from steerd.client import Client
from steerd.client_views import Watched
from steerd.errors import ConfigError
from steerd.feature_client import FeatureClient
from steerd.steering.intervention import FeatureRef

_LONGEST_ALIAS = 40
_IN_LABEL = 0.85  # SearchFeatures' match from which each word is in a label


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
    arguments.add_address(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Change the list if that is asked for, and print it."""
    with Client(options.address) as client:
        before = client.watch_list()
        if options.action != "get":
            client.set_watch_list(_changed(options, before))
        watched = client.watch_list()
    labels = served_labels(options.address, (each.feature for each in watched))
    open_console().print(_table(watched, labels))
    return 0


def _changed(options: argparse.Namespace, before: Sequence[Watched]) -> list[Watched]:
    if options.action == "remove":
        unknown = set(options.items) - {watched.alias for watched in before}
        if unknown:
            raise ConfigError(f"nothing is watched as {', '.join(sorted(unknown))}")
        return [watched for watched in before if watched.alias not in options.items]
    found = _wanted(options)
    new = [Watched(ref, alias, options.threshold, options.hot) for ref, alias in found.items()]
    kept = [watched for watched in before if watched.feature not in found] if options.action == "add" else []
    return [*kept, *new]


def _wanted(options: argparse.Namespace) -> dict[FeatureRef, str]:
    """The features that are named and those that the words find, each with its alias."""
    named_features = {}
    words = []
    for item in options.items:
        name, _, alias = item.partition("=")
        if ":" in name:
            named_features[arguments.feature(name)] = alias
        else:
            words.append(item)
    found = _with_label(options.address, words, options.limit) if words else {}
    labels = {**served_labels(options.address, named_features), **found}
    return {
        feature: named_features.get(feature) or alias_of(feature, _text(feature, labels))
        for feature in (*named_features, *found)
    }


def _with_label(address: str, words: Sequence[str], limit: int) -> Labels:
    """The served features whose label has all the words; raises ConfigError when there is none."""
    with FeatureClient(address) as client:
        matches = client.search(words, limit=limit).features
    found = {each.feature: each.label for each in matches if each.label and each.match >= _IN_LABEL}
    if not found:
        raise ConfigError(f"no served feature has a label with {' '.join(words)!r}")
    return found


def _text(feature: FeatureRef, labels: Labels) -> str:
    return labels[feature].text if feature in labels else feature.sae


def alias_of(feature: FeatureRef, label: str) -> str:
    """A name for dashboards: of a label what an alias may have, and the feature's number to tell it apart."""
    number = f"_{feature.index}"
    words = re.sub(r"[^a-z0-9]+", "_", label.casefold()).strip("_")
    return words[: _LONGEST_ALIAS - len(number)].rstrip("_") + number


def _table(watched: Sequence[Watched], labels: Labels) -> Table:
    table = Table("alias", "feature", "threshold", "hot", "label")
    for each in watched:
        hot = "hot" if each.hot else ""
        row = each.alias, named(each.feature), f"{each.threshold:g}", hot, label_of(each.feature, labels)
        table.add_row(*row)
    return table
