"""The search of known_truth: the same for both sides, it says how an architecture is best trained.

Four rounds on the same rows, each trial scored on the same other rows:
1. every learning rate; where a coefficient decides the L0, every one of its first values at every rate;
2. each such rate with the coefficient that, to judge by those tried, leads to the aimed L0;
3. once more, for the rates at which that did not bring the L0 near enough to the aim;
4. the best so far with one more setting changed, one at a time.
The best is the trial with the largest MCC + F1 among those whose L0 is within 5 % of the aim.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

L0_NEARNESS = 0.05
RATES = (3e-3, 7e-3, 1.5e-2, 3e-2)

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


TryAll = Callable[[Sequence[Trial]], Sequence[Outcome]]


def search(spaces: Sequence[Space], try_all: TryAll, *, aim: float) -> list[Outcome]:
    """Return the outcomes of the four rounds, of all spaces; `try_all` trains, each round at once."""
    outcomes = list(try_all([trial for space in spaces for trial in first_trials(space)]))
    for later in (towards_the_aim, towards_the_aim, varied):
        trials = [trial for space in spaces for trial in later(space, _of(outcomes, space.architecture), aim)]
        outcomes += try_all(trials)
    return outcomes


def best_outcome(outcomes: Iterable[Outcome], aim: float) -> Outcome:
    """The largest MCC + F1 with an L0 within 5 % of the aim; the nearest L0 where none is within."""
    outcomes = list(outcomes)
    near = [outcome for outcome in outcomes if _apart(outcome, aim) <= L0_NEARNESS]
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
    """The second and third round: the rates that are not at the aim, with what should lead there."""
    trials = []
    for name in space.coefficients:
        for rate in space.rates:
            group = [outcome for outcome in outcomes if outcome.trial.learning_rate == rate]
            if any(_apart(outcome, aim) <= L0_NEARNESS for outcome in group):
                continue
            pairs = [(one.trial.settings[name], one.scores["l0"]) for one in group]
            trials.append(group[0].trial.setting(name, coefficient_for(aim, pairs)))
    return trials


def varied(space: Space, outcomes: Sequence[Outcome], aim: float) -> list[Trial]:
    """The last round: the best so far with one setting changed."""
    best = best_outcome(outcomes, aim).trial
    return [best.setting(name, value) for name, value in space.variants]


def coefficient_for(aim: float, tried: Sequence[tuple[float, float]]) -> float:
    """The coefficient that leads to an L0 of `aim`, log L0 being linear in log coefficient.

    `tried` holds coefficients, all different, and their L0. The two whose L0 are nearest to the aim draw the
    line; the result stays within a factor of 4 of those tried.
    """
    nearest = sorted(tried, key=lambda pair: abs(math.log(max(pair[1], 1e-3) / aim)))[:2]
    (x1, y1), (x2, y2) = ((math.log(c), math.log(max(l0, 1e-3) / aim)) for c, l0 in nearest)
    at_aim = x1 if y1 == y2 else x1 - y1 * (x2 - x1) / (y2 - y1)
    low, high = math.log(min(c for c, _ in tried) / 4), math.log(max(c for c, _ in tried) * 4)
    return float(f"{math.exp(min(max(at_aim, low), high)):.3g}")


def _of(outcomes: Iterable[Outcome], architecture: str) -> list[Outcome]:
    return [outcome for outcome in outcomes if outcome.trial.architecture == architecture]


def _apart(outcome: Outcome, aim: float) -> float:
    return abs(outcome.scores["l0"] / aim - 1)
