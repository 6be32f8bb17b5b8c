"""Searching notes by words."""

from __future__ import annotations

import pytest
import torch

from steerd.sae.feature_label import FeatureLabel, LabelScore
from steerd.sae.feature_note import FeatureNote
from steerd.sae.feature_search import search_words


def note(
    feature: int, label: str, top: str = "", promoted: str = "", score: float | None = None
) -> FeatureNote:
    scores = () if score is None else (LabelScore("tokens", score, 20),)
    return FeatureNote(feature, label, top.split(), promoted.split(), (), scores=scores)


NOTES = [
    note(0, "the sea", "ship", "waves"),
    note(1, "dogs", "Sea lion"),
    note(2, "seasons"),
    note(3, "numbers", "1 2", "3"),
    note(4, "boats", "", "sea"),
]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["sea"], [(0, 1.0), (2, 0.9), (1, 0.6), (4, 0.3)]),
        (["SEA", "ship"], [(0, 0.8)]),
        (["se", "do"], [(1, pytest.approx((0.5 + 0.9) / 2))]),
        (["3"], [(3, 0.3)]),
        (["sea", "3"], []),
    ],
)
def test_every_word_must_be_found_and_counts_where_it_is_found_best(
    words: list[str], found: list[tuple[int, float]]
) -> None:
    assert [(match.note.feature, match.score) for match in search_words(NOTES, words)] == found


def test_among_equals_the_best_tested_label_comes_first_then_the_most_active() -> None:
    notes = [note(0, "tea"), note(1, "tea", score=0.6), note(2, "tea", score=0.9), note(3, "tea")]

    found = search_words(notes, ["tea"], torch.tensor([0.1, 0.9, 0.1, 0.2]))

    assert [match.note.feature for match in found] == [2, 1, 3, 0]


def test_no_words_find_all_most_often_active_first() -> None:
    found = search_words(NOTES, [], torch.tensor([0.1, 0.5, 0.2, 0.4, 0.3]))

    assert [match.note.feature for match in found] == [1, 3, 4, 2, 0]


def test_what_a_model_wrote_is_searched_too() -> None:
    written = FeatureNote(0, "dogs", (), (), (), written=FeatureLabel("marine animals", by="model"))

    assert [match.score for match in search_words([written], ["marine"])] == [1.0]
