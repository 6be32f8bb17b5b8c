"""Two sets of texts compared in one half of them: all features at once."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from steerd.studies.contrast_table import Difference, FeatureUse, Strength
from steerd.studies.text_activity import Bools, Floats, Ints, TextActivity
from steerd.studies.two_sets import Firing, SetComparison, compare_sets


@dataclass(frozen=True, slots=True, eq=False)
class Half:
    """The texts of a half: what features did in them, the entries of A's texts, and how many texts and tokens
    that count either set has, as (A, B)."""

    activity: TextActivity
    in_a: Bools
    texts: tuple[int, int]
    tokens: tuple[int, int]

    def only(self, features: Ints, num_features: int) -> Half:
        """As if no other feature had fired."""
        is_chosen = np.zeros(num_features, dtype=np.bool_)
        is_chosen[features] = True
        entries = is_chosen[self.activity.feature]
        return replace(self, activity=self.activity.where(entries), in_a=self.in_a[entries])


@dataclass(frozen=True, slots=True, eq=False)
class _Uses:
    """What all features did in one set, each array [features]."""

    text_rate: Floats
    token_rate: Floats
    mean_peak: Floats
    mean_activation: Floats

    @classmethod
    def of(cls, activity: TextActivity, texts: int, tokens: int, num_features: int) -> _Uses:
        def summed(weights: Floats | None = None) -> Floats:
            return np.bincount(activity.feature, weights, minlength=num_features).astype(np.float64)

        return cls(
            text_rate=summed() / texts,
            token_rate=summed(activity.fired.astype(np.float64)) / tokens,
            mean_peak=summed(activity.peak) / texts,
            mean_activation=summed(activity.mean) / texts,
        )

    def of_feature(self, feature: int) -> FeatureUse:
        columns = (self.text_rate, self.token_rate, self.mean_peak, self.mean_activation)
        return FeatureUse(*(float(column[feature]) for column in columns))


@dataclass(frozen=True, slots=True, eq=False)
class HalfComparison:
    """What differs in a half, each array [features]; `cohens_h` as in Difference."""

    comparison: SetComparison
    a: _Uses
    b: _Uses
    cohens_h: Floats

    @classmethod
    def of(cls, half: Half, num_features: int, strength: Strength) -> HalfComparison:
        """Compare a half in which both sets have texts, and tokens that count."""
        activity = half.activity
        value = activity.peak if strength == "peak" else activity.mean
        firing = Firing(activity.feature, half.in_a, value)
        a = _Uses.of(activity.where(half.in_a), half.texts[0], half.tokens[0], num_features)
        b = _Uses.of(activity.where(~half.in_a), half.texts[1], half.tokens[1], num_features)
        cohens_h = 2 * (np.arcsin(np.sqrt(a.text_rate)) - np.arcsin(np.sqrt(b.text_rate)))
        return cls(compare_sets(firing, *half.texts, num_features), a, b, cohens_h)

    @property
    def sign(self) -> Floats:
        """1 where A's texts are the stronger ones, -1 where B's are; by rates where strengths are even."""
        delta = self.comparison.cliffs_delta
        return np.sign(np.where(delta == 0, self.cohens_h, delta))

    def difference(self, feature: int) -> Difference:
        """All of one feature."""
        return Difference(
            a=self.a.of_feature(feature),
            b=self.b.of_feature(feature),
            cohens_h=float(self.cohens_h[feature]),
            cliffs_delta=float(self.comparison.cliffs_delta[feature]),
            p_value=float(self.comparison.p_value[feature]),
        )
