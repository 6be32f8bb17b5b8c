"""The search of known_truth: the same for both sides, it says how an architecture is best trained.

Rounds on the same rows, each trial scored on the same other rows:
1. every learning rate; where a coefficient decides the L0, every one of its first values at every rate;
2. each such rate with the coefficient that, to judge by those tried, leads to the aimed L0;
3., 4. once more, for the rates at which that did not bring the L0 near enough to the aim;
5. the best so far with one more setting changed, one at a time;
6.-8. each change that moved the L0 away from the aim, with the coefficient that leads back.
The best is the trial with the largest MCC + F1 among those whose L0 is near the aim: within 2 % where a
coefficient decides it, so that neither side gains from a lower L0, and within 5 % where it is what k leaves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

L0_NEARNESS, DECIDED_L0_NEARNESS = 0.05, 0.02
RATES = (3e-3, 7e-3, 1e-2, 1.5e-2, 2e-2, 3e-2)

Settings = Mapping[str, Any]  # Any: the values of a configuration
Scores = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One way to train an SAE of an architecture."""

    architecture: str
    learning_rate: float
    settings: Settings

    def setting(self, name: str, value: Any) -> Trial:  # Any: the value of a configuration
        """The same trial with one setting changed."""
        return replace(self, settings={**self.settings, name: value})


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a trial with one seed."""

    trial: Trial
    seed: int
    scores: Scores

    @property
    def merit(self) -> float:
        """What is sought: MCC + F1."""
        return self.scores["mcc"] + self.scores["f1"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """What is tried of one architecture."""

    architecture: str
    base: Settings
    coefficients: Mapping[str, Sequence[float]]
    """At most one setting, which decides the L0, with its first values."""
    variants: Sequence[tuple[str, Any]]  # Any: the value of a configuration
    """Further settings and values, which are tried one at a time."""
    rates: Sequence[float] = RATES

    @property
    def nearness(self) -> float:
        """How far from the aim an L0 may be, as a share of it."""
        return DECIDED_L0_NEARNESS if self.coefficients else L0_NEARNESS


TryAll = Callable[[Sequence[Trial]], Sequence[Outcome]]


def search(spaces: Sequence[Space], try_all: TryAll, *, aim: float) -> list[Outcome]:
    """Return the outcomes of the rounds, of all spaces; `try_all` trains, each round at once."""
    outcomes = list(try_all([trial for space in spaces for trial in first_trials(space)]))
    for later in (*[towards_the_aim] * 3, varied, *[towards_the_aim] * 3):
        trials = [trial for space in spaces for trial in later(space, _of(outcomes, space.architecture), aim)]
        outcomes += try_all(trials)
    return outcomes


def best_outcome(outcomes: Iterable[Outcome], aim: float, nearness: float) -> Outcome:
    """The largest MCC + F1 with an L0 that near to the aim; the nearest L0 where none is."""
    outcomes = list(outcomes)
    near = [outcome for outcome in outcomes if _apart(outcome, aim) <= nearness]
    if near:
        return max(near, key=lambda outcome: outcome.merit)
    return min(outcomes, key=lambda outcome: _apart(outcome, aim))


def first_trials(space: Space) -> list[Trial]:
    """The first round: every rate, with every coefficient."""
    trials = [
        Trial(architecture=space.architecture, learning_rate=rate, settings=space.base)
        for rate in space.rates
    ]
    for name, values in space.coefficients.items():
        trials = [trial.setting(name, value) for trial in trials for value in values]
    return trials


def towards_the_aim(space: Space, outcomes: Sequence[Outcome], aim: float) -> list[Trial]:
    """What is not at the aim, with the coefficient that should lead there."""
    trials = []
    for name, first in space.coefficients.items():
        groups = _but_for(name, outcomes)
        for group in groups:
            if any(_apart(outcome, aim) <= space.nearness for outcome in group):
                continue
            rate = group[0].trial.learning_rate
            first_group = next(one for one in groups if one[0].trial.learning_rate == rate)
            pairs = _pairs(name, group)
            wanted = coefficient_for(aim, pairs, first=first, alike=_pairs(name, first_group))
            if wanted not in dict(pairs):
                trials.append(group[0].trial.setting(name, wanted))
    return trials


def varied(space: Space, outcomes: Sequence[Outcome], aim: float) -> list[Trial]:
    """The best so far with one setting changed."""
    best = best_outcome(outcomes, aim, space.nearness).trial
    return [best.setting(name, value) for name, value in space.variants]


Pairs = Sequence[tuple[float, float]]
"""Coefficients and their L0."""


def coefficient_for(aim: float, tried: Pairs, *, first: Sequence[float], alike: Pairs = ()) -> float:
    """The coefficient that leads to an L0 of `aim`, log L0 being linear in log coefficient.

    The line goes from the nearest L0 below the aim to the nearest above it, or where all are on one side from
    the smallest coefficient tried to the largest, so that two which lie close together never decide it; where
    one alone is tried it is parallel to that of `alike`. The result is at most a factor of 4 outside the
    first values.
    """
    points = _points(aim, tried)
    x, y = min(points, key=lambda point: abs(point[1]))
    slope = _slope(points if len(points) > 1 else _points(aim, alike))
    at_aim = x - y / slope if slope else x
    low, high = math.log(min(first) / 4), math.log(max(first) * 4)
    return float(f"{math.exp(min(max(at_aim, low), high)):.3g}")


def _points(aim: float, tried: Pairs) -> list[tuple[float, float]]:
    """Logarithms of the coefficient and of L0 over the aim."""
    return [(math.log(coefficient), math.log(max(l0, 1e-3) / aim)) for coefficient, l0 in tried]


def _slope(points: Pairs) -> float:
    below = [point for point in points if point[1] <= 0]
    above = [point for point in points if point[1] > 0]
    if below and above:
        (x1, y1), (x2, y2) = max(below, key=lambda point: point[1]), min(above, key=lambda point: point[1])
    else:
        (x1, y1), (x2, y2) = min(points), max(points)
    return (y2 - y1) / (x2 - x1) if x1 != x2 else 0.0


def _pairs(name: str, outcomes: Iterable[Outcome]) -> Pairs:
    return [(outcome.trial.settings[name], outcome.scores["l0"]) for outcome in outcomes]


def _but_for(name: str, outcomes: Iterable[Outcome]) -> list[list[Outcome]]:
    """Groups of outcomes whose trials differ in that setting alone."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(repr(outcome.trial.setting(name, None)), []).append(outcome)
    return list(groups.values())


def _of(outcomes: Iterable[Outcome], architecture: str) -> list[Outcome]:
    return [outcome for outcome in outcomes if outcome.trial.architecture == architecture]


def _apart(outcome: Outcome, aim: float) -> float:
    return abs(outcome.scores["l0"] / aim - 1)
