"""Contexts as a judge reads them: plain, or with << and >> around tokens."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np

from sae_train.labels.label_contexts import LabelContext

_MARKED_FROM = 0.3  # of a context's largest activation, as in arXiv 2410.13928


def plain_text(context: LabelContext) -> str:
    """The text of a context."""
    return "".join(context.tokens)


def marked_text(tokens: Sequence[str], marked: Collection[int]) -> str:
    """The text with marks around each run of tokens at the places `marked`."""
    parts: list[str] = []
    inside = False
    for place, token in enumerate(tokens):
        if (place in marked) != inside:
            inside = not inside
            parts.append("<<" if inside else ">>")
        parts.append(token)
    return "".join(parts) + (">>" if inside else "")


def active_places(context: LabelContext) -> list[int]:
    """Where a context's activation is not far below its largest."""
    values = context.values
    return list(np.flatnonzero((values > 0) & (values >= _MARKED_FROM * values.max())).tolist())


def marked_texts(contexts: Sequence[LabelContext], seed: int) -> list[str]:
    """Mark the active tokens of each context; in those without any, as many random ones as others have."""
    random = np.random.default_rng(seed)
    places = [active_places(context) for context in contexts]
    counts = [len(found) for found in places if found]
    wrong = math.ceil(sum(counts) / max(len(counts), 1))
    return [
        marked_text(context.tokens, found or _random_places(context, wrong, random))
        for context, found in zip(contexts, places, strict=True)
    ]


def _random_places(context: LabelContext, count: int, random: np.random.Generator) -> list[int]:
    readable = [place for place, token in enumerate(context.tokens) if token]
    return list(random.permutation(readable)[:count].tolist())
