"""`steerd encode`: what features do on texts, token by token."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from steerd.cli import arguments
from steerd.cli.labels import label_of, served_labels
from steerd.cli.tables import active, named, token_table
from steerd.cli.terminal import open_console
from steerd.cli.text_files import read_texts
from steerd.cli.token_painter import activations, painted
from steerd.client_messages import ChatTurn, Reading, Token
from steerd.engine.study import Progress
from steerd.feature_client import FeatureClient
from steerd.studies.encoded_tokens import EncodedTokens, EncodeSummary
from steerd.study_wire.encode import EncodeCall
from steerd.study_wire.study_text import StudyText

_DEFAULT_FEATURES = 5  # of each SAE and token, when no option says what is wanted


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    parser = commands.add_parser(
        "encode",
        help="tell what features do on texts",
        description="Tell which features are active on each token of texts: as a table, of watched features "
        "as coloured text too, or as JSON with one object a text.",
        epilog="example: steerd encode --raw 'The sea is calm.' --watch starter-14:1234",
    )
    parser.add_argument("texts", metavar="TEXT", nargs="*", help="what the user says")
    arguments.add_address(parser)
    parser.add_argument("--raw", action="store_true", help="take the texts as plain text, no chat")
    parser.add_argument(
        "--file",
        type=Path,
        help="texts from a file: a line each, or with .jsonl an object with text or messages",
    )
    parser.add_argument(
        "--watch",
        type=arguments.feature,
        action="append",
        default=[],
        metavar="SAE:FEATURE",
        help="read this feature on every token; may be repeated",
    )
    parser.add_argument("--top-features", type=int, metavar="N", help="each SAE's N most active per token")
    parser.add_argument("--full", action="store_true", help="every active feature of every token")
    parser.add_argument(
        "--sae", action="append", default=[], metavar="NAME", help="only this SAE's most active, or all"
    )
    parser.add_argument("--max-seconds", type=float, default=0.0, metavar="S", help="then tell what is done")
    parser.add_argument("--json", action="store_true", help="print JSON, one object a text")
    parser.set_defaults(run=run, usage_error=parser.error)


def run(options: argparse.Namespace) -> int:
    """Encode and print each text as it is ready; what is incomplete is said on standard error."""
    call = encode_call(options)
    console, rest = open_console(), open_console(stderr=True)
    with FeatureClient(options.address) as client:
        for event in whole_texts(client.encode(call)):
            match event:
                case Progress() if rest.is_terminal:
                    rest.print(f"{event.done} of {event.total} {event.unit}", style="dim")
                case EncodedTokens() if options.json:
                    console.print(json.dumps(record(event)), soft_wrap=True)
                case EncodedTokens():
                    _show(event, call, options.address, console)
                case EncodeSummary(complete=False):
                    rest.print(
                        f"ended early: {event.texts} of {len(call.texts)} texts are done", style="yellow"
                    )
    return 0


def encode_call(options: argparse.Namespace) -> EncodeCall:
    """The call that the options ask for."""
    texts = [
        StudyText(prompt=text) if options.raw else StudyText(chat=(ChatTurn("user", text),))
        for text in options.texts
    ]
    if options.file is not None:
        texts += read_texts(options.file)
    if not texts:
        options.usage_error("a TEXT or --file is required")
    top_features = options.top_features
    if top_features is None:
        top_features = 0 if options.watch or options.full else _DEFAULT_FEATURES
    return EncodeCall(
        texts=tuple(texts),
        watch=tuple(dict.fromkeys(options.watch)),
        top_features=top_features,
        full_codes=options.full,
        saes=tuple(options.sae),
        max_seconds=options.max_seconds,
    )


def whole_texts(
    events: Iterable[Progress | EncodedTokens | EncodeSummary],
) -> Iterator[Progress | EncodedTokens | EncodeSummary]:
    """The events, with the parts of a text, which follow each other, as one."""
    parts: list[EncodedTokens] = []
    for event in events:
        if parts and not (isinstance(event, EncodedTokens) and event.text == parts[0].text):
            yield EncodedTokens.joined(parts)
            parts = []
        if isinstance(event, EncodedTokens):
            parts.append(event)
        else:
            yield event


def record(text: EncodedTokens) -> dict[str, Any]:
    """A text as JSON: its number among those asked for, and its tokens."""
    tokens: list[dict[str, Any]] = [
        {"position": position, "id": token_id, "text": token_text, "features": []}
        for position, (token_id, token_text) in enumerate(
            zip(text.token_ids, text.token_texts, strict=True), text.first_position
        )
    ]
    for codes in text.codes:
        for token, (features, values) in zip(tokens, codes.by_token(), strict=True):
            token["features"] += [
                {"feature": f"{codes.sae}:{feature}", "activation": round(float(value), 6)}
                for feature, value in zip(features, values, strict=True)
            ]
    return {"text": text.text, "tokens": tokens}


def _show(text: EncodedTokens, call: EncodeCall, address: str, console: Console) -> None:
    """A text painted by each watched feature, and the table of what is active on its tokens."""
    readings, positions = (
        _readings(text),
        range(text.first_position, text.first_position + len(text.token_ids)),
    )
    read = (feature for reading in readings for feature, _ in active(reading))
    labels = served_labels(address, (*call.watch, *read))
    console.rule(f"Text {text.text}", align="left")
    for feature in call.watch:
        values = activations(readings, feature)
        console.print(f"{named(feature)} {label_of(feature, labels)}, up to {max(values.values()):.2f}")
        console.print(painted(text.token_texts, [values[position] for position in positions]), soft_wrap=True)
    if call.top_features or call.full_codes:
        tokens = [
            Token(token_id, position, 0.0, token_text)
            for token_id, position, token_text in zip(
                text.token_ids, positions, text.token_texts, strict=True
            )
        ]
        console.print(token_table(tokens, readings, call.watch, labels))


def _readings(text: EncodedTokens) -> list[Reading]:
    return [
        Reading(position, codes.sae, tuple(features.tolist()), tuple(values.tolist()))
        for codes in text.codes
        for position, (features, values) in enumerate(codes.by_token(), text.first_position)
    ]
