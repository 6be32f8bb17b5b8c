"""What is typed on the command line, as data: `sae:feature`, `sae:feature=number`, a server's address."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from math import inf

from steerd.client_channel import DEFAULT_ADDRESS
from steerd.steering.intervention import FeatureRef, Limit, Operation


def feature(text: str) -> FeatureRef:
    """`sae:feature`, for example `starter-14:1234`."""
    sae, colon, index = text.rpartition(":")
    if not colon or not sae or not index.isdecimal():
        raise argparse.ArgumentTypeError(f"expected SAE:FEATURE, for example starter-14:1234; got {text!r}")
    return FeatureRef(sae, int(index))


def edit(operation: Callable[[float], Operation]) -> Callable[[str], tuple[FeatureRef, Operation]]:
    """A reader of `sae:feature=number`, where the number is what `operation` takes."""

    def read(text: str) -> tuple[FeatureRef, Operation]:
        target, number = numbered(text)
        return target, operation(number)

    return read


def numbered(text: str) -> tuple[FeatureRef, float]:
    """`sae:feature=number`."""
    target, _, number = text.partition("=")
    try:
        return feature(target), float(number)
    except (ValueError, argparse.ArgumentTypeError):
        message = f"expected SAE:FEATURE=NUMBER, for example starter-14:1234=8; got {text!r}"
        raise argparse.ArgumentTypeError(message) from None


def switch(text: str) -> tuple[FeatureRef, float, str]:
    """`sae:feature=number:preset`."""
    pair, _, preset = text.rpartition(":")
    try:
        if not preset:
            raise ValueError
        return *numbered(pair), preset
    except (ValueError, argparse.ArgumentTypeError):
        message = f"expected SAE:FEATURE=NUMBER:PRESET, for example starter-14:1234=8:calm; got {text!r}"
        raise argparse.ArgumentTypeError(message) from None


def limit(text: str) -> tuple[FeatureRef, Limit]:
    """`sae:feature=min:max`, where either bound may be left out."""
    target, _, bounds = text.partition("=")
    low, colon, high = bounds.partition(":")
    try:
        if not colon or not (low or high):
            raise ValueError
        return feature(target), Limit(float(low or -inf), float(high or inf))
    except (ValueError, argparse.ArgumentTypeError):
        message = f"expected SAE:FEATURE=MIN:MAX, for example starter-14:1234=0:8; got {text!r}"
        raise argparse.ArgumentTypeError(message) from None


def count(text: str) -> int:
    """A number of tokens, 0 or more."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a number of tokens, 0 or more; got {text!r}")
    return int(text)


def add_address(parser: argparse.ArgumentParser) -> None:
    """Where the server listens."""
    parser.add_argument(
        "--address", default=DEFAULT_ADDRESS, metavar="HOST:PORT", help="the server (default: %(default)s)"
    )
