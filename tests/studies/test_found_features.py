from __future__ import annotations

import numpy as np
import pytest

from steerd.steering.intervention import FeatureRef
from steerd.studies.found_features import FoundFeatures
from steerd.studies.half_comparison import Half
from steerd.studies.text_activity import TextActivity
from tests.studies.test_two_sets import Values, sparse_values

FEATURES = 200


def half_of(a: Values, b: Values) -> Half:
    """Matrices [texts, features] of activations, every text of ten tokens with one that fires."""
    values = np.concatenate([a, b])
    text, feature = np.nonzero(values)
    peak = values[text, feature]
    activity = TextActivity(text, feature, peak, peak / 10, np.ones_like(text))
    return Half(activity, text < len(a), (len(a), len(b)), (10 * len(a), 10 * len(b)))


def found_in(discovery: tuple[Values, Values], held_out: tuple[Values, Values]) -> FoundFeatures:
    return FoundFeatures.find(half_of(*discovery), half_of(*held_out), FEATURES, strength="peak", rate=0.05)


def random_half(
    rng: np.random.Generator, share: Values, louder: int = 0, rarer: int = 0
) -> tuple[Values, Values]:
    """The first features are stronger in A, the last ones rarer there."""
    a, b = sparse_values(rng, 30, FEATURES, share), sparse_values(rng, 30, FEATURES, share)
    a[:, :louder] *= 5.0
    a[:, FEATURES - rarer :] *= rng.random((30, rarer)) < 0.15
    return a, b


def test_where_nothing_differs_hardly_anything_is_ever_found() -> None:
    rng = np.random.default_rng(1)
    draws = []
    for _ in range(100):
        share = rng.choice([0.1, 0.5, 1.0], size=FEATURES)
        draws.append(found_in(random_half(rng, share), random_half(rng, share)))

    assert np.mean([len(found.features) > 0 for found in draws]) < 0.1  # 0.05 and its noise
    assert sum(found.is_confirmed.sum() for found in draws) <= 1


def test_what_is_confirmed_is_what_differs_and_to_which_side() -> None:
    rng = np.random.default_rng(2)
    false_shares = []
    for _ in range(20):
        share = np.full(FEATURES, 1.0)
        halves = [random_half(rng, share, louder=20, rarer=10) for _ in range(2)]
        found = found_in(*halves)
        confirmed = found.features[found.is_confirmed]
        right = (confirmed < 20) | (confirmed >= FEATURES - 10)
        false_shares.append(1 - right.mean())
        assert right.sum() >= 28
        assert (found.sign[found.features < 20] == 1).all()
        assert (found.sign[found.features >= FEATURES - 10] == -1).all()
    assert np.mean(false_shares) < 0.01


def test_what_differs_in_one_half_only_is_not_confirmed() -> None:
    rng = np.random.default_rng(4)
    share = np.full(FEATURES, 1.0)
    found = found_in(random_half(rng, share, louder=40), random_half(rng, share))

    assert len(found.features) >= 40
    assert found.is_confirmed.sum() <= 1
    assert np.median(found.held_out_q_value) > 0.2


def test_what_turns_round_in_the_held_out_half_is_not_confirmed() -> None:
    rng = np.random.default_rng(3)
    share = np.full(FEATURES, 1.0)
    a, b = random_half(rng, share, louder=5)
    found = found_in((a, b), (b, a))

    assert set(found.features) >= set(range(5))
    assert not found.is_confirmed.any()
    told = found.at(int(np.flatnonzero(found.features == 2)[0]), FeatureRef("some", 2), "two")
    assert (told.more_in, told.confirmed) == ("a", False)
    assert told.discovery.cliffs_delta == pytest.approx(-told.held_out.cliffs_delta)
