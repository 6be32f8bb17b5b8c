from __future__ import annotations

import pytest

from tests.sae_train.features.observing import observe


def test_statistics_are_counts_means_and_maxima() -> None:
    seen = observe([[0.0, 1.0, 0.0], [2.0, 0.0, 0.0], [4.0, 0.0, 0.0], [0.0, 0.0, 0.0]], "abcd", [0, 0, 1, 1])

    statistics = seen.statistics()

    assert statistics.max_activation.tolist() == [4.0, 1.0, 0.0]
    assert statistics.density.tolist() == [0.5, 0.25, 0.0]
    assert statistics.mean_activation.tolist() == [3.0, 1.0, 0.0]
    assert statistics.dead.tolist() == [False, False, True]


def test_mass_by_token_is_of_squares_and_survives_merging(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sae_train.features.feature_observations._PENDING_LIMIT", 0)
    seen = observe([[3.0], [1.0], [2.0], [0.0]], "abab", [0, 0, 0, 0])

    mass = seen.token_mass()

    assert mass.token_ids.tolist() == [ord("a"), ord("b")]
    assert mass.mass.tolist() == [13.0, 1.0]


def test_mass_by_source_is_of_squares() -> None:
    seen = observe([[3.0, 1.0], [1.0, 0.0], [2.0, 0.0]], "aaa", [0, 1, 1])

    assert seen.source_mass.tolist() == [[9.0, 5.0], [1.0, 0.0]]
    assert seen.source_rows.tolist() == [1.0, 2.0]
