"""How well a label's words alone tell in which held-out windows its feature is active; nobody judges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sae_train.features.feature_notes import named_words, word
from sae_train.labels.held_out_windows import HeldOutWindows
from steerd.host.token_texts import TokenTexts
from steerd.sae.feature_files import FeatureNote
from steerd.sae.feature_label import LabelScore

LEAST_WINDOWS = 10
"""Windows with the feature active, and without it, below which a label is not tested."""


def word_detection(
    windows: HeldOutWindows, labels: Sequence[str], texts: TokenTexts
) -> list[LabelScore | None]:
    """Test the labels of all features, made of their tokens' statistics, by detection without a judge.

    A window counts as told active where any of its tokens reads like one of the label's words, whatever its
    case and spaces. The score is, over all windows, (share of active ones told active + share of the others
    told inactive) / 2: 0.5 for a label that says nothing, such as a word that is everywhere or nowhere. What
    is in brackets behind the words plays no part. None where fewer than LEAST_WINDOWS windows have the
    feature active, or fewer do not.
    """
    holding = _windows_by_word(windows, texts)
    nowhere = np.zeros(0, dtype=np.int64)
    scores: list[LabelScore | None] = []
    for feature, label in enumerate(labels):
        active = np.zeros(len(windows), dtype=np.bool_)
        active[windows.active(feature).windows] = True
        if min(active.sum(), (~active).sum()) < LEAST_WINDOWS:
            scores.append(None)
            continue
        told = np.zeros(len(windows), dtype=np.bool_)
        for named in named_words(label):
            told[holding.get(named, nowhere)] = True
        value = (told[active].mean() + (~told[~active]).mean()) / 2
        scores.append(LabelScore("tokens", round(float(value), 3), int(active.sum())))
    return scores


def with_word_scores(
    notes: Sequence[FeatureNote], windows: HeldOutWindows, texts: TokenTexts
) -> tuple[FeatureNote, ...]:
    """Return the notes with this test of their labels, in place of an earlier one."""
    found = word_detection(windows, [note.label for note in notes], texts)
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
