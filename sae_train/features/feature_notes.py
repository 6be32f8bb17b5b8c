"""Words for people about each feature: its characteristic tokens and a label, all from counts.

Nothing here is guessed by a model: a label names the tokens that carry most of a feature's activation, and
the corpus source when one source carries most of it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sae_train.features.feature_observations import FeatureObservations, TokenMass
from steerd.host.token_texts import UNFINISHED, TokenTexts

TOP_TOKENS = 8
LABEL_TOKENS = 4

PARTS_OF_CHARACTERS = "parts of characters"

_BETWEEN = " · "
_TOKEN = re.compile(r"token '(.*)'", re.DOTALL)
_KINDS = re.compile(r" \((?:\w+ script|(?:\w+ script, )?mostly .*)\)$")
_SMOOTHING = 10.0  # occurrences added to each token's count: one that was seen once is not characteristic
_ALONE = 0.5  # share of the activation from which a token, or a source, stands for the feature
_SOURCE_LIFT = 2.5  # how much more of the activation than of the tokens a source must have


@dataclass(frozen=True, slots=True)
class FeatureTokens:
    """The tokens of one feature, most characteristic first, and their shares of its squared activation."""

    token_ids: NDArray[np.int64]
    shares: NDArray[np.float64]


def characteristic_tokens(observations: FeatureObservations) -> list[FeatureTokens]:
    """Rank each feature's tokens by share of its activation times log of lift over the token's frequency."""
    mass = observations.token_mass()
    frequency = (observations.token_rows + _SMOOTHING) / (observations.rows + _SMOOTHING)
    bounds = np.searchsorted(mass.features, np.arange(len(observations.total) + 1))
    return [
        _rank(mass, slice(bounds[feature], bounds[feature + 1]), frequency)
        for feature in range(len(observations.total))
    ]


def _rank(mass: TokenMass, part: slice, frequency: NDArray[np.float64]) -> FeatureTokens:
    token_ids, values = mass.token_ids[part], mass.mass[part]
    if len(values) == 0:
        return FeatureTokens(token_ids=token_ids, shares=values)
    shares = values / values.sum()
    score = shares * np.log(np.maximum(shares / frequency[token_ids], 1.0))
    order = np.argsort(-score, kind="stable")[:TOP_TOKENS]
    return FeatureTokens(token_ids=token_ids[order], shares=shares[order])


def dominating_sources(observations: FeatureObservations, names: Sequence[str]) -> list[str | None]:
    """Return for each feature the source with half of its activation, far above its part of the data."""
    totals = observations.source_mass.sum(axis=1, keepdims=True)
    shares = observations.source_mass / np.maximum(totals, 1e-12)  # [d_sae, sources]
    base = observations.source_rows / max(observations.rows, 1)
    best = shares.argmax(axis=1)
    best_share = shares.max(axis=1)
    lift = best_share / np.maximum(base[best], 1e-12)
    found = (best_share >= _ALONE) & (lift >= _SOURCE_LIFT)
    return [names[source] if ok else None for source, ok in zip(best.tolist(), found.tolist(), strict=True)]


def label(tokens: FeatureTokens, source: str | None, texts: TokenTexts, *, dead: bool) -> str:
    """Say in a few words what the feature was seen to be active on."""
    if dead or len(tokens.token_ids) == 0:
        return "dead"
    words = _distinct_words(tokens, texts)
    script = _script([shown for shown, _ in words])
    if words and words[0][1] >= _ALONE:
        text = f"token '{words[0][0]}'"
    else:
        text = _BETWEEN.join(shown for shown, _ in words[:LABEL_TOKENS]) or PARTS_OF_CHARACTERS
    kinds = [kind for kind in (script and f"{script} script", source and f"mostly {source}") if kind]
    return f"{text} ({', '.join(kinds)})" if kinds else text


def named_words(label: str) -> frozenset[str]:
    """Return the words of a label that `label` has made, each as `word` gives it in lower case."""
    text = _KINDS.sub("", label)
    alone = _TOKEN.fullmatch(text)
    words = [alone[1]] if alone else text.split(_BETWEEN)
    return frozenset(word.lower() for word in words)


def word(token: str) -> str:
    """Return a token's text as labels show it: without its spaces, unless it is nothing else."""
    if UNFINISHED in token:
        return PARTS_OF_CHARACTERS
    return token.strip() or repr(token)[1:-1].replace(" ", "␣")


def _distinct_words(tokens: FeatureTokens, texts: TokenTexts) -> list[tuple[str, float]]:
    """Join tokens that differ in case or spaces only; leave out parts of characters."""
    words: dict[str, tuple[str, float]] = {}
    for token_id, share in zip(tokens.token_ids.tolist(), tokens.shares.tolist(), strict=True):
        shown = word(texts.one(token_id))
        if shown == PARTS_OF_CHARACTERS:
            continue
        first, so_far = words.get(shown.lower(), (shown, 0.0))
        words[shown.lower()] = (first, so_far + share)
    return list(words.values())


def _script(words: Sequence[str]) -> str | None:
    """The writing system when most letters are of one that is not Latin."""
    letters = [letter for text in words for letter in text if letter.isalpha()]
    scripts = [unicodedata.name(letter, "").split(" ")[0].split("-")[0] for letter in letters]
    for script in sorted(set(scripts) - {"LATIN", ""}):
        if scripts.count(script) > len(scripts) * 0.6:
            return "Chinese" if script == "CJK" else script.capitalize()
    return None
