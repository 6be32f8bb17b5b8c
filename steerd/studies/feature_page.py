"""All that is known of one feature, as plain data."""

from __future__ import annotations

from dataclasses import dataclass

from steerd.sae.feature_label import FeatureLabel
from steerd.sae.feature_note import FeatureExample
from steerd.steering.intervention import FeatureRef
from steerd.studies.feature_matches import FeatureMatch


@dataclass(frozen=True, slots=True)
class PageWish:
    """A feature, and how many output tokens of either kind and neighbours are wanted."""

    feature: FeatureRef
    output_tokens: int
    neighbours: int


@dataclass(frozen=True, slots=True)
class TokenEffect:
    """A token whose logit the feature's direction changes, by so many standard deviations over all features.

    `text` is empty where nobody has told it yet.
    """

    token_id: int
    effect: float
    text: str = ""


@dataclass(frozen=True, slots=True)
class FeaturePage:
    """One feature; None or empty for what its SAE's file does not record.

    Of `labels` the first is the one to show. `contexts` are the strongest ones, then those with a percentile.
    `promoted` and `suppressed` are empty until the host was asked; `promoted_tokens` is what the file says of
    that, for who cannot ask it.
    """

    feature: FeatureRef
    hook_point: str
    labels: tuple[FeatureLabel, ...] = ()
    density: float | None = None
    max_activation: float | None = None
    mean_activation: float | None = None
    dead: bool = False
    top_tokens: tuple[str, ...] = ()
    contexts: tuple[FeatureExample, ...] = ()
    promoted_tokens: tuple[str, ...] = ()
    promoted: tuple[TokenEffect, ...] = ()
    suppressed: tuple[TokenEffect, ...] = ()
    neighbours: tuple[FeatureMatch, ...] = ()
    complete: bool = True
