"""What steering by a feature does at each strength, and the strength to take: plain data and arithmetic."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import exp
from statistics import fmean

from steerd.steering.intervention import FeatureRef

_REPEATED = 4  # tokens in a row that count as repeated when they came before


@dataclass(frozen=True, slots=True)
class NextTokenEffect:
    """What steering does to next tokens, against the unsteered host.

    At the first new token of the prompts, means: `kl` is KL(steered || unsteered) in nats, `changed` the
    share of prompts whose likeliest token is another one, `promoted_gain` the probability that the promoted
    tokens gain together, `output_score` that of arXiv 2505.20063 at this strength. `side_kl` and
    `side_changed` are means over all tokens of the control texts.
    """

    kl: float
    changed: float
    promoted_gain: float
    output_score: float
    side_kl: float
    side_changed: float


@dataclass(frozen=True, slots=True)
class TextEffect:
    """What steered answers are like, as the unsteered host reads them; means over the prompts.

    `concept`: the largest activation of the feature in an answer as a share of its recorded maximum, at most
    1. `active_share` and `promoted_share` of the tokens have the feature active, or are promoted by it.
    `surprise`: -log p a token, in nats. `repetition`: the share of four tokens in a row that came before.
    """

    concept: float
    active_share: float
    promoted_share: float
    surprise: float
    repetition: float


@dataclass(frozen=True, slots=True)
class DosePoint:
    """One strength: in activation units, in recorded maxima of the feature (0 if none is known), and as a
    share of the hook point's median residual norm.

    `control` is the mean of the same measures when other features are added by the same length; None if none
    was. `fluency` and `score` are those of `dose_score`.
    """

    strength: float
    feature_max: float
    resid_norm: float
    next_token: NextTokenEffect
    text: TextEffect
    control: TextEffect | None
    control_next_token: NextTokenEffect | None
    fluency: float
    score: float
    is_safe: bool
    sample: str = ""


@dataclass(frozen=True, slots=True)
class DoseBounds:
    """How much worse than the unsteered answers a safe strength may make them.

    None of `side_kl` sets no bound.
    """

    surprise_gain: float
    repetition_gain: float
    side_kl: float | None = None

    def holds(self, text: TextEffect, plain: TextEffect, side_kl: float) -> bool:
        """Whether the answers of a strength keep the bounds."""
        return (
            text.surprise - plain.surprise <= self.surprise_gain
            and text.repetition - plain.repetition <= self.repetition_gain
            and (self.side_kl is None or side_kl <= self.side_kl)
        )


@dataclass(frozen=True, slots=True)
class DoseCurve:
    """The points in rising strength, the unsteered host's answers, and what the feature says by itself.

    `output_score` is that of arXiv 2505.20063. `controls` are the features that were added for comparison.
    """

    complete: bool
    feature: FeatureRef
    output_score: float
    promoted: tuple[str, ...]
    plain: TextEffect
    plain_sample: str
    points: tuple[DosePoint, ...]
    controls: tuple[FeatureRef, ...]

    @property
    def safe_up_to(self) -> DosePoint | None:
        """The largest strength up to which all are safe; None when not even the smallest is."""
        safe = None
        for point in self.points:
            if not point.is_safe:
                break
            safe = point
        return safe

    @property
    def sweet_spot(self) -> DosePoint | None:
        """The strength in the safe range with the best score; None when none has an effect."""
        last = self.safe_up_to
        safe = [point for point in self.points if last is not None and point.strength <= last.strength]
        best = max(safe, key=lambda point: point.score, default=None)
        return best if best is not None and best.score > 0 else None


def dose_score(text: TextEffect, plain: TextEffect) -> tuple[float, float]:
    """Fluency and score of answers against the unsteered ones, each from 0 to 1.

    Fluency is the ratio of the perplexities, at most 1, less what repeats itself more. The score is the
    harmonic mean of fluency and of what the concept gained, as AxBench (arXiv 2501.17148) joins its marks.
    """
    repeats = min(max(text.repetition - plain.repetition, 0.0), 1.0)
    fluency = min(exp(plain.surprise - text.surprise), 1.0) * (1.0 - repeats)
    gain = max(text.concept - plain.concept, 0.0)
    return fluency, 2 * gain * fluency / (gain + fluency) if gain > 0 and fluency > 0 else 0.0


def repetition(token_ids: Sequence[int]) -> float:
    """The share of runs of four tokens that came before in the same text; 0 for a short one."""
    runs = [tuple(token_ids[i : i + _REPEATED]) for i in range(len(token_ids) - _REPEATED + 1)]
    return 1.0 - len(set(runs)) / len(runs) if runs else 0.0


def mean_text(effects: Iterable[TextEffect]) -> TextEffect:
    """The mean of every measure; at least one."""
    rows = [(e.concept, e.active_share, e.promoted_share, e.surprise, e.repetition) for e in effects]
    return TextEffect(*map(fmean, zip(*rows, strict=True)))


def mean_next_token(effects: Iterable[NextTokenEffect]) -> NextTokenEffect:
    """The mean of every measure; at least one."""
    rows = [(e.kl, e.changed, e.promoted_gain, e.output_score, e.side_kl, e.side_changed) for e in effects]
    return NextTokenEffect(*map(fmean, zip(*rows, strict=True)))
