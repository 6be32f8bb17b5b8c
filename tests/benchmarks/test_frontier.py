"""Which learning rate a side of the frontier is held to."""

from __future__ import annotations

from benchmarks.frontier import best
from benchmarks.frontier_trials import Outcome, Trial


def outcome(rate: float, *, explained: float, inactive: float) -> Outcome:
    return Outcome(Trial("batch_topk", 16, rate), explained, 16.0, 16.0, explained, inactive)


def test_the_best_explains_most_of_those_that_keep_their_features() -> None:
    slow = outcome(1e-3, explained=0.7, inactive=0.0)
    steady = outcome(3e-3, explained=0.8, inactive=0.02)
    fast = outcome(6e-3, explained=0.9, inactive=0.03)

    assert best([slow, steady, fast]) is steady


def test_where_all_lose_features_the_best_loses_fewest() -> None:
    steady = outcome(3e-3, explained=0.8, inactive=0.04)
    fast = outcome(6e-3, explained=0.9, inactive=0.05)

    assert best([fast, steady]) is steady
