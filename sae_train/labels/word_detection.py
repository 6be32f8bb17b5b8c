"""How well a label's words alone tell in which held-out windows its feature is active; nobody judges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sae_train.features.feature_notes import named_words, word
from sae_train.labels.held_out_windows import HeldOutWindows
from steerd.host.token_texts import TokenTexts
from steerd.sae.feature_label import STRONG, LabelScore
from steerd.sae.feature_note import FeatureNote

LEAST_WINDOWS = 10
"""Windows with the feature active, and without it, below which a label is not tested."""


def word_detection(
    windows: HeldOutWindows, labels: Sequence[str], max_activation: Sequence[float], texts: TokenTexts
) -> list[LabelScore | None]:
    """Test the labels of all features, made of their tokens' statistics, by detection without a judge.

    A window counts as told active where any of its tokens reads like one of the label's words, whatever its
    case and spaces. The score is, over all windows, (share of active ones told active + share of the others
    told inactive) / 2: 0.5 for a label that says nothing, such as a word that is everywhere or nowhere. What
    is in brackets behind the words plays no part. None where fewer than LEAST_WINDOWS windows have the
    feature active, or fewer do not. `max_activation` are the recorded maxima.
    """
    holding = _windows_by_word(windows, texts)
    return [
        _score(windows, feature, STRONG * highest, [holding[w] for w in named_words(label) if w in holding])
        for feature, (label, highest) in enumerate(zip(labels, max_activation, strict=True))
    ]


def _score(
    windows: HeldOutWindows, feature: int, strong_from: float, told_active: list[NDArray[np.int64]]
) -> LabelScore | None:
    found, peaks = windows.active(feature)
    inactive = np.ones(len(windows), dtype=np.bool_)
    inactive[found] = False
    if min(len(found), inactive.sum()) < LEAST_WINDOWS:
        return None
    told = np.zeros(len(windows), dtype=np.bool_)
    for part in told_active:
        told[part] = True
    right_inactive = (~told[inactive]).mean()
    strong = told[found[peaks >= strong_from]]
    return LabelScore(
        method="tokens",
        value=_rounded(told[found].mean() + right_inactive),
        contexts=len(found),
        strong=_rounded(strong.mean() + right_inactive) if len(strong) >= LEAST_WINDOWS else None,
    )


def _rounded(two_shares: float) -> float:
    return round(float(two_shares) / 2, 3)


def with_word_scores(
    notes: Sequence[FeatureNote], max_activation: Sequence[float], windows: HeldOutWindows, texts: TokenTexts
) -> tuple[FeatureNote, ...]:
    """Return the notes with this test of their labels, in place of an earlier one."""
    found = word_detection(windows, [note.label for note in notes], max_activation, texts)
    return tuple(
        replace(note, scores=[*([score] if score else []), *_by_judges(note)])
        for note, score in zip(notes, found, strict=True)
    )


def _by_judges(note: FeatureNote) -> list[LabelScore]:
    return [score for score in note.scores if score.method != "tokens"]


def _windows_by_word(windows: HeldOutWindows, texts: TokenTexts) -> dict[str, NDArray[np.int64]]:
    """In which windows each word occurs."""
    token_ids, inverse = np.unique(windows.token_ids, return_inverse=True)
    words = [word(texts.one(token_id)).lower() for token_id in token_ids.tolist()]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(words))}
    number_of_token = np.array([numbers[name] for name in words], dtype=np.int64)
    found = number_of_token[inverse.reshape(-1)]  # [windows * tokens]
    owners = np.repeat(np.arange(len(windows)), windows.token_ids.shape[1])
    pairs = np.unique(found * max(1, len(windows)) + owners)
    found, owners = np.divmod(pairs, max(1, len(windows)))
    bounds = np.searchsorted(found, np.arange(len(numbers) + 1))
    return {name: owners[bounds[number] : bounds[number + 1]] for name, number in numbers.items()}
