"""Two sets of texts, and which features do more in either, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from steerd.sae.feature_label import FeatureLabel
from steerd.steering.intervention import FeatureRef

SetName = Literal["a", "b"]
Strength = Literal["peak", "mean"]


@dataclass(frozen=True, slots=True)
class ContrastWish:
    """Two sets of texts in token ids, and the SAEs whose features are compared.

    The strength of a feature in a text is its largest activation (`peak`) or its mean over the tokens that
    count. `top` bounds how many features of each direction are told. Texts are dealt to the two halves by
    `seed`.
    """

    a: tuple[tuple[int, ...], ...]
    b: tuple[tuple[int, ...], ...]
    saes: tuple[str, ...]
    strength: Strength
    false_discovery_rate: float
    top: int
    seed: int
    include_special_tokens: bool


@dataclass(frozen=True, slots=True)
class FeatureUse:
    """What a feature did in a number of texts.

    `text_rate` is the share of texts in which it fired, `token_rate` the share of their tokens; `mean_peak`
    and `mean_activation` are the means over texts of a text's largest and mean activation, 0 where the
    feature did not fire, in the SAE's own units.
    """

    text_rate: float
    token_rate: float
    mean_peak: float
    mean_activation: float


@dataclass(frozen=True, slots=True)
class Difference:
    """A feature in both sets.

    `cohens_h` is the distance of the text rates, from -pi to pi. `cliffs_delta`, from -1 to 1, is the chance
    that a text of A is stronger than one of B, minus that of the other way round. `p_value` is two-sided, for
    rate or strength to differ, before any correction.
    """

    a: FeatureUse
    b: FeatureUse
    cohens_h: float
    cliffs_delta: float
    p_value: float


@dataclass(frozen=True, slots=True)
class ContrastedFeature:
    """A feature that differed in one half of the texts, and what it did in the other.

    `q_value` corrects the p-value of the half where it was found for all features tested there,
    `held_out_q_value` that of the other half for all that were found. `confirmed`: that half says so too,
    and in the same direction. `label` is None where the SAE has no labels.
    """

    feature: FeatureRef
    label: FeatureLabel | None
    more_in: SetName
    discovery: Difference
    q_value: float
    held_out: Difference
    held_out_q_value: float
    confirmed: bool


@dataclass(frozen=True, slots=True)
class TextCount:
    """How much of a set was read: texts of either half, and tokens that counted."""

    discovery_texts: int
    held_out_texts: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Contrast:
    """The features that differ, strongest first by Cliff's delta where they were found.

    `tested` features fired in any text of the discovery half; `found` differed there, and `confirmed` did
    so again in the held-out half. `features` are the strongest of those found, first those that do more in
    A, then those that do more in B.
    """

    complete: bool
    a: TextCount
    b: TextCount
    tested: int
    found: int
    confirmed: int
    features: tuple[ContrastedFeature, ...]
