"""Whether values of two sets of texts differ, feature by feature; the text is the unit, never the token.

A value is a text's strength of a feature: above 0 where it fires, else 0. Two tests ask whether it makes a
difference which set a text is in: of how often the feature fires (Fisher's exact test), and of how strongly
(Mann-Whitney over all texts). What is rare fires in few texts, so that most values are one large tie at 0 and
the usual normal approximation goes wrong in its tails. Here the number of firing texts in the first set has
its exact, hypergeometric, distribution, and only the ranks among firing texts are taken as normal.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_SMALLEST = 1e-300  # p-value that is told
_SLACK = 1e-7  # equal probabilities and ranks may differ by rounding


@dataclass(frozen=True, slots=True)
class Firing:
    """Where features fire: one entry a feature and text, in any order, each array [entries].

    `in_first` says in which of the two sets the text is. `value` is above 0, and counts in the precision of
    float32. No pair comes twice.
    """

    feature: Ints
    in_first: Bools
    value: Floats


@dataclass(frozen=True, slots=True)
class SetComparison:
    """What differs, each array [features].

    `first` and `second` count the firing texts of either set. `cliffs_delta` is the probability that a text
    of the first set has the larger value minus that of the smaller, from -1 to 1. Both p-values are
    two-sided, and 1 for a feature that never fires.
    """

    first: Ints
    second: Ints
    cliffs_delta: Floats
    p_rate: Floats
    p_strength: Floats

    @property
    def p_value(self) -> Floats:
        """That of a difference in either, both being tried: the harmonic mean of the two, which go together
        (Wilson 2019)."""
        either: Floats = 2 / (1 / self.p_rate + 1 / self.p_strength)
        return either


def compare_sets(firing: Firing, num_first: int, num_second: int, num_features: int) -> SetComparison:
    """Test every feature; both sets have at least one text."""
    ranks = _rank(firing, num_features)
    total = num_first * num_second
    silent = num_second - (ranks.firing - ranks.first)  # texts of the second set where it does not fire
    larger = ranks.larger_pairs + ranks.first * silent + (num_first - ranks.first) * silent / 2
    p_rate, p_strength = np.ones(num_features), np.ones(num_features)
    for count in np.unique(ranks.firing[ranks.firing > 0]):
        features = np.flatnonzero(ranks.firing == count)
        chances = _Chances.of(int(count), num_first, num_second)
        p_rate[features] = chances.fisher()[ranks.first[features] - chances.first[0]]
        p_strength[features] = chances.rank_sum(larger[features], ranks.ties[features])
    return SetComparison(
        first=ranks.first,
        second=ranks.firing - ranks.first,
        cliffs_delta=2 * larger / total - 1,
        p_rate=np.maximum(p_rate, _SMALLEST),
        p_strength=np.maximum(p_strength, _SMALLEST),
    )


@dataclass(frozen=True, slots=True)
class _Ranks:
    """By feature: texts where it fires, those of the first set, pairs of firing texts in which the first
    set's value is larger (a tie counts half), and the sum of t^3 - t over ties of t values."""

    firing: Ints
    first: Ints
    larger_pairs: Floats
    ties: Floats


def _rank(firing: Firing, num_features: int) -> _Ranks:
    # One whole number holds feature, value and set: floats above 0 are in the order of their bits.
    bits = firing.value.astype(np.float32).view(np.int32).astype(np.int64)
    packed = np.sort(firing.feature << 32 | bits << 1 | firing.in_first)
    feature, in_first, place = packed >> 32, (packed & 1).astype(np.bool_), packed >> 1
    counts = np.bincount(feature, minlength=num_features)
    starts = np.cumsum(counts) - counts
    is_new = np.ones(len(place), dtype=np.bool_)
    is_new[1:] = place[1:] != place[:-1]
    group_start = np.flatnonzero(is_new)
    group_size = np.diff(np.append(group_start, len(place)))
    mean_rank = np.repeat(group_start + (group_size + 1) / 2, group_size) - starts[feature]  # from 1 on
    first = np.bincount(feature[in_first], minlength=num_features)
    rank_sum = np.bincount(feature[in_first], mean_rank[in_first], minlength=num_features)
    tied = (group_size**3 - group_size).astype(np.float64)
    ties: Floats = np.bincount(feature[group_start], tied, minlength=num_features).astype(np.float64)
    return _Ranks(counts, first, rank_sum - first * (first + 1) / 2, ties)


@dataclass(frozen=True, slots=True)
class _Chances:
    """The null distribution for features that fire in `count` texts: how many of these are in the first set.

    `first` [outcomes] are the possible numbers, rising, and `chance` their probabilities.
    """

    count: int
    num_first: int
    num_second: int
    first: Ints
    chance: Floats

    @classmethod
    def of(cls, count: int, num_first: int, num_second: int) -> _Chances:
        first = np.arange(max(0, count - num_second), min(count, num_first) + 1)
        log_chance = _log_choose(num_first, first) + _log_choose(num_second, count - first)
        chance = np.exp(log_chance - log_chance.max())
        return cls(count, num_first, num_second, first, chance / chance.sum())

    def fisher(self) -> Floats:
        """The two-sided p-value of every outcome: all outcomes that are no more likely."""
        order = np.argsort(self.chance)
        cumulated = np.cumsum(self.chance[order])
        last = np.searchsorted(self.chance[order], self.chance * (1 + _SLACK), side="right") - 1
        return np.minimum(cumulated[last], 1.0)

    def rank_sum(self, larger: Floats, ties: Floats) -> Floats:
        """Two-sided p-values of these numbers of larger pairs; each array [features]."""
        second = self.count - self.first
        pairs = self.first * second  # [outcomes]
        silent = self.num_second - second
        fixed = self.first * silent + (self.num_first - self.first) * silent / 2
        tied = ties / max(self.count * (self.count - 1), 1)
        deviation = np.sqrt(pairs / 12 * (self.count + 1 - tied)[:, None])  # [features, outcomes]
        middle = self.num_first * self.num_second / 2
        distance = np.abs(larger - middle)[:, None]
        above = _tail(middle + distance - fixed, pairs, deviation)
        below = _tail(fixed + pairs - (middle - distance), pairs, deviation)
        chance = (above + below) @ self.chance
        return np.where(distance[:, 0] < _SLACK, 1.0, np.minimum(chance, 1.0))


def _tail(at_least: Floats, pairs: Ints, deviation: Floats) -> Floats:
    """The probability that of `pairs` pairs as many or more are the larger ones, [features, outcomes]."""
    fixed = deviation == 0  # all tied, or no pair: half of the pairs, always
    score = (at_least - pairs / 2 - 0.5) / np.where(fixed, 1.0, deviation)
    normal: Floats = 0.5 * torch.special.erfc(torch.from_numpy(score / 2**0.5)).numpy()
    possible = np.where(fixed, at_least <= pairs / 2 + _SLACK, at_least <= pairs + _SLACK)
    return np.where(fixed | ~possible | (at_least <= _SLACK), possible, normal)


def _log_choose(total: int, chosen: Ints) -> Floats:
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, total + 1)))])
    picked: Floats = log_factorial[total] - log_factorial[chosen] - log_factorial[total - chosen]
    return picked
