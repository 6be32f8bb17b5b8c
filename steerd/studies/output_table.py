"""Features by their output score, as plain data."""

from __future__ import annotations

from dataclasses import dataclass

from steerd.sae.feature_label import FeatureLabel
from steerd.steering.intervention import FeatureRef
from steerd.steering.steering import Steering


@dataclass(frozen=True, slots=True)
class OutputWish:
    """The features to score, after which neutral text, and how many of the best to tell; `plain` stays in
    force whatever is tried."""

    features: tuple[FeatureRef, ...]
    neutral: tuple[int, ...]
    plain: Steering
    top: int


@dataclass(frozen=True, slots=True)
class RankedOutput:
    """A feature with its output score (arXiv 2505.20063), from 0 to 1, and the ids of the tokens that it
    promotes, most first; their texts where they have been told."""

    feature: FeatureRef
    label: FeatureLabel | None
    score: float
    promoted: tuple[int, ...]
    promoted_texts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OutputTable:
    """The best of the features that were scored, in falling order; `complete` if that is all of them."""

    complete: bool
    scored: int
    features: tuple[RankedOutput, ...]
