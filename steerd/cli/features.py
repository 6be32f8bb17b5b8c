"""`steerd features`: what features stand for, found by words, by texts and by what is near them."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from steerd.cli import arguments
from steerd.cli.feature_pages import matches_table, print_page
from steerd.cli.study_progress import progress_teller
from steerd.cli.terminal import open_console
from steerd.cli.text_files import read_texts
from steerd.client_channel import DEFAULT_ADDRESS
from steerd.client_messages import ChatTurn
from steerd.errors import ConfigError
from steerd.feature_client import FeatureClient
from steerd.starters import STARTERS
from steerd.steering.intervention import FeatureRef
from steerd.studies.feature_matches import FeatureMatches, Side, TextMatches
from steerd.studies.feature_page import FeaturePage
from steerd.study_wire.feature_search import NearestCall, TextSearchCall
from steerd.study_wire.study_text import StudyText

if TYPE_CHECKING:
    from steerd.cli.feature_folders import FeatureFolders

DEFAULT_LIMIT = 20


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    parser = commands.add_parser(
        "features",
        help="find features by words, by texts or near others, and show one",
        description="List features whose labels or tokens contain every word, best matches first; those near "
        "another one; or those that fire on some texts and not on others. Or show all about one feature. SAE "
        "folders are read without a server, unless --server or --address says to ask one; texts always ask "
        "one, and only a server knows what a feature suppresses.",
        epilog="example: steerd features music    steerd features --feature starter-14:1823 --server    "
        "steerd features --on 'Will it rain?' --not-on 'What is that?'",
    )
    add = parser.add_argument
    add("words", nargs="*", metavar="WORD", help="none lists the features that are active most often")
    add(
        "--sae",
        action="append",
        default=[],
        metavar="NAME",
        help="search in this one; may be repeated. Without a server one of "
        f"{', '.join(STARTERS)} or an SAE folder (default: those three), else a served one (default: all)",
    )
    add("--limit", type=int, default=DEFAULT_LIMIT, metavar="N", help="rows at most (default: %(default)s)")
    add("--feature", metavar="SAE:N", help="show this feature instead; N alone is a feature of the one --sae")
    add("--near", type=arguments.feature, metavar="SAE:N", help="list features that point like this one")
    add("--encoder", action="store_true", help="with --near: compare what features read, not what they write")
    add(
        "--on",
        action="append",
        default=[],
        metavar="TEXT",
        help="list features that fire on this; repeatable",
    )
    add("--not-on", action="append", default=[], metavar="TEXT", help="and not on this; may be repeated")
    add("--on-file", type=Path, metavar="FILE", help="more such texts: a line each, or .jsonl")
    add("--not-on-file", type=Path, metavar="FILE", help="likewise")
    add("--raw", action="store_true", help="take --on and --not-on as plain text, not as what a user says")
    add("--max-seconds", type=float, default=0.0, metavar="S", help="then tell of the texts read so far")
    add("--json", action="store_true", help="print the answer as JSON")
    add("--server", action="store_true", help=f"ask the server at {DEFAULT_ADDRESS}")
    add("--address", metavar="HOST:PORT", help="ask the server there")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print a table of matches, or one feature."""
    by_texts = bool(options.on or options.on_file)
    asked = [bool(options.words), options.feature is not None, options.near is not None, by_texts]
    if sum(asked) > 1:
        raise ConfigError("words, --feature, --near and --on ask for different things: name one of them")
    if (options.not_on or options.not_on_file) and not by_texts:
        raise ConfigError("--not-on needs --on: texts on which the features are to fire")
    if options.server or options.address or by_texts:
        with FeatureClient(options.address or DEFAULT_ADDRESS) as client:
            _show(_from_server(client, options), options)
    else:
        from steerd.cli.feature_folders import FeatureFolders  # costs torch, which a server spares

        _show(_from_folders(FeatureFolders(options.sae or STARTERS), options), options)
    return 0


Answer = FeaturePage | FeatureMatches | TextMatches


def _from_server(client: FeatureClient, options: argparse.Namespace) -> Answer:
    saes, limit = tuple(options.sae), options.limit
    if options.feature is not None:
        return client.feature(_feature(options))
    if options.near is not None:
        return client.nearest(NearestCall(near=options.near, saes=saes, side=_side(options), limit=limit))
    if options.on or options.on_file:
        call = TextSearchCall(
            fires_on=_texts(options.on, options.on_file, options.raw),
            not_on=_texts(options.not_on, options.not_on_file, options.raw),
            saes=saes,
            limit=limit,
            max_seconds=options.max_seconds,
        )
        return client.search_by_texts(call, progress_teller())
    return client.search(options.words, saes=saes, limit=limit)


def _from_folders(folders: FeatureFolders, options: argparse.Namespace) -> Answer:
    if options.feature is not None:
        return folders.page(_feature(options))
    if options.near is not None:
        return folders.nearest(options.near, _side(options), options.limit)
    return folders.search(options.words, options.limit)


def _show(answer: Answer, options: argparse.Namespace) -> None:
    console = open_console()
    if options.json:
        console.print_json(json.dumps(asdict(answer)))
        return
    match answer:
        case FeaturePage():
            print_page(answer, console)
        case TextMatches():
            console.print(matches_table(answer.features, "match"))
            early = "" if answer.complete else ", ended early"
            console.print(f"{len(answer.features)} features by {answer.texts} texts{early}")
        case FeatureMatches():
            measure = "cosine" if options.near else "match" if options.words else ""
            console.print(matches_table(answer.features, measure))
            console.print(f"{len(answer.features)} of {answer.found} features")


def _feature(options: argparse.Namespace) -> FeatureRef:
    """SAE:N, or N with the one SAE that is named."""
    if not options.feature.isdecimal():
        return arguments.feature(options.feature)
    if len(options.sae) != 1:
        raise ConfigError("--feature needs --sae: which SAE's feature is to be shown")
    return FeatureRef(Path(options.sae[0]).resolve().name, int(options.feature))


def _side(options: argparse.Namespace) -> Side:
    return "encoder" if options.encoder else "decoder"


def _texts(texts: list[str], file: Path | None, raw: bool) -> tuple[StudyText, ...]:
    given = tuple(
        StudyText(prompt=text) if raw else StudyText(chat=(ChatTurn("user", text),)) for text in texts
    )
    return given if file is None else (*given, *read_texts(file))
