"""Which features fire on each special token, as plain data."""

from __future__ import annotations

from dataclasses import dataclass

from steerd.sae.feature_label import FeatureLabel
from steerd.steering.intervention import FeatureRef


@dataclass(frozen=True, slots=True)
class SpecialTokensWish:
    """Texts in token ids, the SAEs to read, and how many features of each to tell for a token."""

    texts: tuple[tuple[int, ...], ...]
    saes: tuple[str, ...]
    top: int


@dataclass(frozen=True, slots=True)
class FiringFeature:
    """A feature that fires on a special token.

    `mean_maximum` is the mean over the texts that have the token of the largest activation on it there,
    `maximum` the largest of all; `text_share` of these texts it fires on the token. `ordinary_mean_maximum`
    is the mean over all texts of the largest activation on ordinary tokens.
    """

    feature: FeatureRef
    label: FeatureLabel | None
    mean_maximum: float
    maximum: float
    text_share: float
    ordinary_mean_maximum: float


@dataclass(frozen=True, slots=True)
class SpecialToken:
    """A special token, in how many texts it stands past their first position, and the features that fire on
    it: SAE by SAE, strongest first."""

    token_id: int
    texts: int
    features: tuple[FiringFeature, ...]
    token_text: str = ""


@dataclass(frozen=True, slots=True)
class SpecialTokenTable:
    """All special tokens that were found, by id; `complete` if all texts were read."""

    complete: bool
    texts: int
    tokens: tuple[SpecialToken, ...]
