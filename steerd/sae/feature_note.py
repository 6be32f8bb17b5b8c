"""What a person reads about one feature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from steerd.sae.feature_label import FeatureLabel, LabelScore, better_label


@dataclass(frozen=True, slots=True)
class FeatureExample:
    """One context in which a feature is active: its tokens, and the feature's activation at each.

    `percentile` is of a context drawn at random: the per cent of the feature's active tokens that are less
    active than the token it was drawn for. The strongest contexts have none.
    """

    tokens: Sequence[str]
    values: Sequence[float]
    percentile: float | None = None


@dataclass(frozen=True, slots=True)
class FeatureNote:
    """One line of features.jsonl.

    `label` is made of the statistics of its tokens and `scores` are of that one; `written` is what a language
    model says, with scores of its own. `top_tokens` are the tokens where it is most active,
    `promoted_tokens` those whose logits its direction raises, `examples` its strongest contexts and `sampled`
    some over the whole order of its activations, strongest first.
    """

    feature: int
    label: str
    top_tokens: Sequence[str]
    promoted_tokens: Sequence[str]
    examples: Sequence[FeatureExample]
    sampled: Sequence[FeatureExample] = ()
    scores: Sequence[LabelScore] = ()
    written: FeatureLabel | None = None

    @property
    def shown_label(self) -> FeatureLabel:
        """The label to show, of the two."""
        return better_label(FeatureLabel(self.label, self.scores), self.written)
