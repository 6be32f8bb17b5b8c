"""Features that differ between two sets of texts: found in one half of them, measured again in the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from steerd.sae.feature_label import FeatureLabel
from steerd.steering.intervention import FeatureRef
from steerd.studies.contrast_table import ContrastedFeature, Strength
from steerd.studies.false_discovery import q_values
from steerd.studies.half_comparison import Half, HalfComparison
from steerd.studies.text_activity import Bools, Floats, Ints


@dataclass(frozen=True, slots=True, eq=False)
class FoundFeatures:
    """What was found, each array [found]; `tested` features fired in the discovery half.

    `sign` is 1 for a feature that does more in A. `is_confirmed`, `q_value` and `held_out_q_value` are as in
    ContrastedFeature.
    """

    tested: int
    discovery: HalfComparison
    held_out: HalfComparison
    features: Ints
    sign: Floats
    q_value: Floats
    held_out_q_value: Floats
    is_confirmed: Bools

    @classmethod
    def find(
        cls, discovery: Half, held_out: Half, num_features: int, *, strength: Strength, rate: float
    ) -> FoundFeatures:
        """Find at this false discovery rate; every half has texts of both sets."""
        first = HalfComparison.of(discovery, num_features, strength)
        tested = np.unique(discovery.activity.feature)
        corrected = q_values(first.comparison.p_value[tested])
        features = tested[corrected <= rate]
        second = HalfComparison.of(held_out.only(features, num_features), num_features, strength)
        again = q_values(second.comparison.p_value[features])
        sign = first.sign[features]
        return cls(
            tested=len(tested),
            discovery=first,
            held_out=second,
            features=features,
            sign=sign,
            q_value=corrected[corrected <= rate],
            held_out_q_value=again,
            is_confirmed=(again <= rate) & (second.sign[features] == sign),
        )

    def strongest(self, sign: int, top: int) -> list[int]:
        """The places of those that do more in that set, at most `top`, strongest first."""
        places = np.flatnonzero(self.sign == sign)
        features = self.features[places]
        delta = np.abs(self.discovery.comparison.cliffs_delta[features])
        order = np.lexsort((features, self.discovery.comparison.p_value[features], -delta))
        chosen: list[int] = places[order[:top]].tolist()
        return chosen

    def at(self, place: int, name: FeatureRef, label: FeatureLabel | None) -> ContrastedFeature:
        """All of the one at that place, by its name."""
        feature = int(self.features[place])
        return ContrastedFeature(
            feature=name,
            label=label,
            more_in="a" if self.sign[place] > 0 else "b",
            discovery=self.discovery.difference(feature),
            q_value=float(self.q_value[place]),
            held_out=self.held_out.difference(feature),
            held_out_q_value=float(self.held_out_q_value[place]),
            confirmed=bool(self.is_confirmed[place]),
        )
