"""What some features do for the tokens of a text, found by ablating each, as data."""

from __future__ import annotations

import math
from dataclasses import dataclass

from steerd.sae.feature_label import FeatureLabel
from steerd.steering.intervention import FeatureRef
from steerd.studies.applied_steering import AppliedSteering


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureEffect:
    """By token of the text: how active the feature is, and what its ablation everywhere adds to the natural
    log of the token's probability, given all before it.

    Below 0 the feature speaks for the token. The first token has no probability, and a change of 0.
    """

    feature: FeatureRef
    label: FeatureLabel | None
    activations: tuple[float, ...]
    changes: tuple[float, ...]

    @property
    def total_change(self) -> float:
        """What the ablation adds to the natural log of the whole text's probability."""
        return math.fsum(self.changes)


@dataclass(frozen=True, kw_only=True, slots=True)
class EffectTable:
    """A text and the effects of features on it; all that were asked for where `complete`.

    `logprobs` are the natural logs of the tokens' probabilities without any ablation, 0 for the first.
    `ordinary` tokens are neither special nor the very first, whose rows are unlike all others.
    """

    token_ids: tuple[int, ...]
    token_texts: tuple[str, ...]
    logprobs: tuple[float, ...]
    ordinary: tuple[bool, ...]
    effects: tuple[FeatureEffect, ...]
    steering: AppliedSteering
    complete: bool

    def strongest(self, effect: FeatureEffect) -> float:
        """The feature's largest activation on ordinary tokens, or on others where those have none."""
        pairs = list(zip(effect.activations, self.ordinary, strict=True))
        highest = max((value for value, is_ordinary in pairs if is_ordinary), default=0.0)
        return highest or max(effect.activations, default=0.0)
