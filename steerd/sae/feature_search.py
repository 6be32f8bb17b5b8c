"""The features that words ask for, by what is noted of each, best matches first."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from torch import Tensor

from steerd.sae.feature_note import FeatureNote

LABEL, TOP_TOKEN, PROMOTED_TOKEN = 1.0, 0.6, 0.3
"""What a word counts that is found as a whole there."""
_PART = 0.1  # less where it is part of a longer word

_WORDS = re.compile(r"\w+")


class WordMatch(NamedTuple):
    """A feature that words ask for; `score` is the mean over the words of what each counts, 0 to 1.

    `density` is the share of tokens on which it is active, 0 if unknown.
    """

    note: FeatureNote
    score: float
    density: float

    @property
    def rank(self) -> tuple[float, float, float]:
        """Smallest for the best match, also of several SAEs.

        By score; among equals the best tested label first, then what is active most often. Without words only
        the last counts.
        """
        return -self.score, -_tested(self.note) if self.score else 0.0, -self.density


def search_words(
    notes: Sequence[FeatureNote], words: Sequence[str], density: Tensor | None = None
) -> list[WordMatch]:
    """Return the features of which a label or token contains each word, best first; case does not matter.

    A word counts where it is found best: 1 in a label, 0.6 in one of the top tokens, 0.3 in one of the
    promoted ones, and 0.1 less as a part of a longer word. No words find every feature.
    """
    usual = [0.0] * len(notes) if density is None else density.tolist()
    wanted = [word.casefold() for word in words]
    scored = ((note, _score(note, wanted)) for note in notes)
    found = [WordMatch(note, score, usual[note.feature]) for note, score in scored if score is not None]
    return sorted(found, key=lambda match: match.rank)


def _score(note: FeatureNote, words: Sequence[str]) -> float | None:
    """None where a word is found nowhere."""
    if not words:
        return 0.0
    labels = [note.label] if note.written is None else [note.label, note.written.text]
    places = (
        (LABEL, [text.casefold() for text in labels]),
        (TOP_TOKEN, [text.casefold() for text in note.top_tokens]),
        (PROMOTED_TOKEN, [text.casefold() for text in note.promoted_tokens]),
    )
    best = [max((_counts(word, weight, texts) for weight, texts in places), default=0.0) for word in words]
    return sum(best) / len(best) if all(best) else None


def _counts(word: str, weight: float, texts: Iterable[str]) -> float:
    found = [text for text in texts if word in text]
    if not found:
        return 0.0
    whole = any(word == text.strip() or word in _WORDS.findall(text) for text in found)
    return weight if whole else weight - _PART


def _tested(note: FeatureNote) -> float:
    score = note.shown_label.score
    return 0.0 if score is None else score.value
