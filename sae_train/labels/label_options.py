"""The options of `sae-train labels`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from sae_train.labels.endpoint import EndpointSettings
from sae_train.labels.label_folder import LabelWish
from steerd.errors import ConfigError


def add_label_options(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    add = parser.add_argument
    parser.description = (
        "Test every label by its words. With a judge, also have labels written and tested by detection and "
        "fuzzing. What is found is kept in the folder's notes; started again, it goes on where it stopped."
    )
    add("folder", type=Path, metavar="FOLDER")
    add("config", type=Path, metavar="CONFIG.toml")
    judges = parser.add_mutually_exclusive_group()
    judges.add_argument("--endpoint", metavar="URL", help="ask an OpenAI-compatible endpoint, URL up to /v1")
    judges.add_argument("--host-judge", action="store_true", help="ask the host itself")
    add("--judge", metavar="MODEL", help="the model to ask at the endpoint")
    add("--key-variable", default="OPENAI_API_KEY", metavar="NAME", help="environment variable of its key")
    add("--timeout", type=float, default=60.0, metavar="SECONDS", help="of one try (default: %(default)s)")
    add("--parallel", type=int, default=4, metavar="N", help="features asked about at once, likewise")
    add("--features", type=int, nargs="+", default=(), metavar="N", help="ask about these")
    add("--sample", type=int, default=50, metavar="N", help="or about N drawn at random, likewise")
    add("--no-writing", action="store_true", help="test the labels there are, have none written")
    add("--rubric", action="store_true", help="have the five strongest contexts rated, 1 to 5 points")
    add("--contexts", type=int, default=0, metavar="N", help="note N usual contexts of features without any")


def label_wish(parsed: argparse.Namespace) -> LabelWish:
    """Return what the options ask for; raises ConfigError for those that do not go together."""
    return LabelWish(
        judge="host" if parsed.host_judge else _endpoint(parsed),
        features=tuple(parsed.features),
        sample=parsed.sample,
        writes=not parsed.no_writing,
        rubric=parsed.rubric,
        contexts=parsed.contexts,
    )


def _endpoint(parsed: argparse.Namespace) -> EndpointSettings | None:
    if parsed.endpoint is None:
        return None
    if not parsed.endpoint.startswith(("http://", "https://")):
        raise ConfigError(f"--endpoint must begin with http:// or https://; got {parsed.endpoint!r}")
    if not parsed.judge:
        raise ConfigError("--endpoint needs --judge: the model that is to be asked there")
    return EndpointSettings(
        url=parsed.endpoint,
        model=parsed.judge,
        key=os.environ.get(parsed.key_variable, ""),
        timeout_seconds=parsed.timeout,
        parallel=parsed.parallel,
    )
