"""Features that a search found, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from steerd.sae.feature_label import FeatureLabel
from steerd.steering.intervention import FeatureRef

Side = Literal["decoder", "encoder"]
Text = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TextMatch:
    """What a feature did in the texts of a search by texts.

    Its strength in a text is its largest activation there as a share of its recorded maximum, at most 1.
    `background` is what is taken off; it fired on `fired_on` of the wanted texts and on `fired_elsewhere` of
    the others.
    """

    fired_on: int
    fired_elsewhere: int
    strength: float
    background: float


@dataclass(frozen=True, slots=True)
class FeatureMatch:
    """A feature and how well it matches, in the measure of the search; None for what no file records."""

    feature: FeatureRef
    hook_point: str
    label: FeatureLabel | None
    match: float
    density: float | None = None
    max_activation: float | None = None
    top_tokens: tuple[str, ...] = ()
    promoted_tokens: tuple[str, ...] = ()
    texts: TextMatch | None = None


@dataclass(frozen=True, slots=True)
class FeatureMatches:
    """The best matches of all SAEs together, best first; `found` counts all there are."""

    features: tuple[FeatureMatch, ...]
    found: int
    complete: bool = True


@dataclass(frozen=True, slots=True)
class NearestWish:
    """A feature, or a direction [d_model] of the residual stream, and the SAEs in which to look around it."""

    near: FeatureRef | tuple[float, ...]
    saes: tuple[str, ...]
    side: Side
    limit: int


@dataclass(frozen=True, slots=True)
class TextSearchWish:
    """Texts in token ids on which features are to fire, and others on which they are not.

    `frames` are the conversations among the former without their contents: what fires there fires on the
    template.
    """

    fires_on: tuple[Text, ...]
    not_on: tuple[Text, ...]
    saes: tuple[str, ...]
    limit: int
    include_special_tokens: bool
    frames: tuple[Text, ...] = ()


@dataclass(frozen=True, slots=True)
class TextMatches:
    """What fires on the texts, best first, and how many texts were read."""

    complete: bool
    features: tuple[FeatureMatch, ...]
    texts: int
