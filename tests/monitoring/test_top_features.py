"""Which features are above their usual strength: against naive counting, and for how long."""

from __future__ import annotations

import numpy as np
import pytest

from steerd.engine.events import ActiveEntries, SampledRows, StepReport
from steerd.monitoring.top_features import MAX_ENTRIES, TOP_FEATURES, TOP_SECONDS, FeatureFacts, TopFeatures
from steerd.sae.feature_label import FeatureLabel
from tests.monitoring.test_metrics import step

D_SAE = 40


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def facts(usual: float = 0.0, d_sae: int = D_SAE) -> FeatureFacts:
    labels = [FeatureLabel(f"label {feature}") for feature in range(d_sae)]
    return FeatureFacts(labels, np.full(d_sae, 4.0), np.full(d_sae, usual))


def report(activations: np.ndarray, sae: str = "a") -> StepReport:
    """A step whose sampled rows have these activations, [rows, d_sae]."""
    rows, features = np.nonzero(activations)
    values = activations[rows, features].astype(np.float32)
    num_rows = np.arange(len(activations))
    unexplained = np.zeros(len(activations), dtype=np.float32)
    return step(sampled={sae: SampledRows(num_rows, ActiveEntries(rows, features, values), unexplained)})


def test_the_order_is_that_of_naive_counting() -> None:
    random = np.random.default_rng()
    usual, largest = random.uniform(0, 0.2, D_SAE), random.uniform(1, 9, D_SAE)
    top = TopFeatures()
    top.know("a", FeatureFacts([FeatureLabel(str(feature)) for feature in range(D_SAE)], largest, usual))
    steps = [random.uniform(0, 5, (rows, D_SAE)) * (random.random((rows, D_SAE)) < 0.2) for rows in (3, 1, 8)]

    for activations in steps:
        top.step_finished(report(activations))

    rows = np.concatenate(steps).astype(np.float32)
    strengths = {
        feature: sum(row[feature] for row in rows) / len(rows) / largest[feature] for feature in range(D_SAE)
    }
    above = {feature: strength - usual[feature] for feature, strength in strengths.items()}
    expected = sorted((f for f in above if above[f] > 0), key=lambda f: -above[f])[:TOP_FEATURES]
    tokens, found = top.top()["a"]
    assert tokens == len(rows) == 12
    assert [feature.feature for feature in found] == expected
    for feature in found:
        assert feature.label.text == str(feature.feature)
        assert feature.strength == pytest.approx(strengths[feature.feature])
        assert feature.usual_strength == usual[feature.feature]
        assert feature.active_share == sum(row[feature.feature] > 0 for row in rows) / 12


def test_what_is_as_strong_as_ever_is_not_told() -> None:
    top = TopFeatures()
    top.know("a", facts(usual=0.5))

    top.step_finished(report(np.eye(2, D_SAE) * 4))  # half of its maximum on average, as in training
    assert top.top()["a"] == (2, [])

    top.step_finished(report(np.eye(1, D_SAE) * 40))
    assert [feature.feature for feature in top.top()["a"][1]] == [0]


def test_a_minute_later_it_is_forgotten() -> None:
    clock = Clock()
    top = TopFeatures(clock=clock)
    top.know("a", facts())
    top.step_finished(report(np.eye(2, D_SAE)))
    clock.now = TOP_SECONDS
    top.step_finished(report(np.eye(1, D_SAE)))
    assert top.top()["a"][0] == 3

    clock.now += 1
    assert top.top()["a"][0] == 1


def test_an_sae_that_nothing_is_known_of_is_left_out() -> None:
    top = TopFeatures()

    top.step_finished(report(np.eye(2, D_SAE)))

    assert top.top() == {}


def test_no_more_is_kept_than_there_is_room_for() -> None:
    top = TopFeatures()
    top.know("a", facts(d_sae=1000))

    for _ in range(MAX_ENTRIES // 100_000 + 3):
        top.step_finished(report(np.ones((100, 1000))))

    assert top.top()["a"][0] * 1000 == MAX_ENTRIES
