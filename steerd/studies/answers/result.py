"""What pushes two answers to a prompt, and what flips the answer, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from steerd.sae.feature_label import FeatureLabel
from steerd.steering.intervention import FeatureRef, Intervention
from steerd.studies.applied_steering import UNSTEERED, AppliedSteering

Pushes = Literal["right", "wrong", "both", "neither"]


@dataclass(frozen=True, slots=True)
class AnswerScore:
    """How likely an answer is: `logprob` is the natural log of its probability after the prompt, `logit` by
    how much the logits of its tokens are above the mean of all; both summed over its tokens."""

    logprob: float
    logit: float
    num_tokens: int


@dataclass(frozen=True, slots=True)
class AnswerFeature:
    """A feature of the prompt, and by how much either answer falls when it is ablated.

    `activation` is its largest in the prompt, at `position`. Measured are logits, `right` and `wrong`, and
    log-probabilities. Predicted by gradients, and decisive for `pushes`, are logits where both answers are
    one token, else log-probabilities.
    """

    feature: FeatureRef
    label: FeatureLabel | None
    activation: float
    position: int
    predicted_right: float
    predicted_wrong: float
    right: float
    wrong: float
    right_logprob: float
    wrong_logprob: float
    pushes: Pushes


@dataclass(frozen=True, slots=True)
class FlipMember:
    """An intervention of a flip, in activation units.

    By how many nats the right answer leads under it alone, and under all others of the flip; None where that
    was not tried. It leads by as much as it is likelier than the wrong one, or than it was, the smaller.
    """

    intervention: Intervention
    label: FeatureLabel | None
    lead_alone: float | None
    lead_without: float | None


@dataclass(frozen=True, slots=True)
class ControlEffect:
    """What a flip does to a text that it is not for.

    The divergence of the next token's distribution from the one without the flip, in nats, as mean and
    maximum over the text's tokens, and the share of them after which another token is the likeliest.
    """

    tokens: int
    mean_kl: float
    max_kl: float
    changed: float


@dataclass(frozen=True, slots=True)
class Flip:
    """The smallest set of interventions, of those tried, under which the right answer leads: is likelier than
    the wrong one, and than it was.

    With `is_minimal` no member can be left out, which was tried. Where several sets are as small, it is one
    that does little to the control texts.
    """

    members: tuple[FlipMember, ...]
    right: AnswerScore
    wrong: AnswerScore
    is_minimal: bool
    controls: tuple[ControlEffect, ...]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Interventions that were not tried, or not to the end, and which rule of the operator forbids them."""

    interventions: tuple[Intervention, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class AnswerComparison:
    """Both answers, the features that were ablated, those that matter most first, and a flip if one is known.

    No flip is looked for when the right answer is the likelier one as it is. `tried` counts the sets of
    interventions that were made for it, `left_out` are the first that were not. Before its first slices
    nothing is known: scores are None. `token_texts` are those of the prompt, which `steering` steered.
    """

    complete: bool
    token_texts: tuple[str, ...]
    right: AnswerScore | None = None
    wrong: AnswerScore | None = None
    features: tuple[AnswerFeature, ...] = ()
    flip: Flip | None = None
    tried: int = 0
    steering: AppliedSteering = UNSTEERED
    left_out: tuple[LeftOut, ...] = ()
