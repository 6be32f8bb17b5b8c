"""What a client asks a server to generate or score, and what it hears, as plain data.

Neither grpc, protobuf nor torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from steerd.steering.intervention import FeatureRef, Intervention
from steerd.steering.receipt import NO_RECEIPT, Receipt
from steerd.steering.steering import NamedVersion
from steerd.steering.trigger import Trigger


class Unit(Enum):
    """What strengths and values are measured in: the SAE's activations, the feature's recorded maximum, or
    the hook point's median residual norm."""

    ACTIVATION = "activation"
    FEATURE_MAX = "feature-max"
    RESID_NORM = "resid-norm"


@dataclass(frozen=True, slots=True)
class ChatTurn:
    """What one speaker (system, user, assistant) says."""

    role: str
    content: str


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerateCall:
    """One Generate call, with exactly one of `prompt`, `chat` and `token_ids`.

    None leaves the server's default. `unit` is that of every add, set and limit among the interventions, and
    of every test.
    """

    prompt: str | None = None
    chat: tuple[ChatTurn, ...] = ()
    token_ids: tuple[int, ...] = ()
    request_id: str = ""
    max_new_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    interventions: tuple[Intervention, ...] = ()
    presets: tuple[str, ...] = ()  # name, or name@version
    unit: Unit = Unit.ACTIVATION
    watch: tuple[FeatureRef, ...] = ()
    top_features: int = 0
    top_features_of: tuple[str, ...] = ()  # names of SAEs; none: all
    include_prompt: bool = False
    after_edit: bool = False  # watched features after the edits of their hook point too
    baseline: bool = False
    triggers: tuple[Trigger, ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """Activations of one SAE's features at one position, before any edit; both tuples run in parallel.

    `values_after`, if asked for, are those of the watched features, which come first, after all edits of
    their hook point.
    """

    position: int
    sae: str
    features: tuple[int, ...]
    values: tuple[float, ...]
    values_after: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreCall:
    """One Score call, with at most one of `prompt`, `chat` and `token_ids`; continuations are text or ids.

    `unit` is that of every add, set and limit among the interventions, and of every test.
    """

    continuations: tuple[str | tuple[int, ...], ...]
    prompt: str | None = None
    chat: tuple[ChatTurn, ...] = ()
    token_ids: tuple[int, ...] = ()
    request_id: str = ""
    interventions: tuple[Intervention, ...] = ()
    presets: tuple[str, ...] = ()  # name, or name@version
    unit: Unit = Unit.ACTIVATION
    baseline: bool = False
    watch: tuple[FeatureRef, ...] = ()
    top_features: int = 0
    top_features_of: tuple[str, ...] = ()  # names of SAEs; none: all
    include_prompt: bool = False
    after_edit: bool = False  # watched features after the edits of their hook point too


@dataclass(frozen=True, slots=True)
class Started:
    """The first event: the request as the server runs it; equal plan hashes steer equally.

    `interventions` are in activation units, directions known by their hashes alone.
    """

    request_id: str
    model: str
    prompt_tokens: int
    queue_seconds: float
    seed: int
    prompt_token_texts: tuple[str, ...]
    warnings: tuple[str, ...]
    plan_hash: str
    presets: tuple[NamedVersion, ...] = ()
    policies: tuple[NamedVersion, ...] = ()
    interventions: tuple[Intervention, ...] = ()


@dataclass(frozen=True, slots=True)
class Token:
    """A generated token; `text` is what became certain with it, `logprob` a natural log."""

    id: int
    position: int
    logprob: float
    text: str


@dataclass(frozen=True, slots=True)
class BaselineDelta:
    """New text and tokens of the unsteered baseline.

    `divergences` are pairs of a position and KL(steered || baseline) there, in nats.
    """

    text: str
    tokens: tuple[Token, ...]
    divergences: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Firing:
    """A trigger fired on the token at a position."""

    trigger: str
    position: int


@dataclass(frozen=True, slots=True)
class Delta:
    """New text, the tokens that made it, readings of earlier positions and what fired there."""

    text: str
    tokens: tuple[Token, ...]
    readings: tuple[Reading, ...]
    baseline: BaselineDelta | None = None
    fired: tuple[Firing, ...] = ()


@dataclass(frozen=True, slots=True)
class FeatureUse:
    """What a watched or steered feature did over the request; activations are before the edit."""

    feature: FeatureRef
    max_activation: float
    mean_activation: float
    active_tokens: int
    steered_tokens: int


@dataclass(frozen=True, slots=True)
class BaselineEnd:
    """How the baseline ended; `first_diverging_position` is None when both texts are the same.

    `mean_kl` is the mean divergence up to that position.
    """

    finish_reason: str
    prompt_tokens: int
    generated_tokens: int
    first_diverging_position: int | None
    mean_kl: float


@dataclass(frozen=True, slots=True)
class Completed:
    """The last event. `finish_reason` is stop, length, stop_sequence or feature.

    `cached_prompt_tokens` of the prompt's did not run, as an earlier request had left their keys and values.
    """

    finish_reason: str
    prompt_tokens: int
    generated_tokens: int
    queue_seconds: float
    prefill_seconds: float
    decode_seconds: float
    features: tuple[FeatureUse, ...]
    receipt: Receipt = NO_RECEIPT
    baseline: BaselineEnd | None = None
    cached_prompt_tokens: int = 0


Event = Started | Delta | Completed


@dataclass(frozen=True, slots=True)
class Generation:
    """A whole stream."""

    started: Started
    text: str
    tokens: tuple[Token, ...]
    readings: tuple[Reading, ...]
    completed: Completed
    baseline: BaselineDelta | None = None
    fired: tuple[Firing, ...] = ()


@dataclass(frozen=True, slots=True)
class ScoredText:
    """How likely one continuation is, token by token.

    Log-probabilities are natural; `likeliest` says whether no other token was likelier. The baseline is
    without steering, and empty if not asked for.
    """

    token_ids: tuple[int, ...]
    token_texts: tuple[str, ...]
    logprobs: tuple[float, ...]
    likeliest: tuple[bool, ...]
    total_logprob: float
    baseline_logprobs: tuple[float, ...]
    baseline_total_logprob: float
    readings: tuple[Reading, ...]
    receipt: Receipt


@dataclass(frozen=True, slots=True)
class Scores:
    """The answer to a Score call: one text a continuation, and what the server warns of.

    Equal plan hashes steer equally.
    """

    texts: tuple[ScoredText, ...]
    warnings: tuple[str, ...]
    plan_hash: str
    presets: tuple[NamedVersion, ...] = ()
    policies: tuple[NamedVersion, ...] = ()


def collect(events: Iterator[Event]) -> Generation:
    """The whole of a stream that ends with Completed."""
    started, *middle, completed = events
    assert isinstance(started, Started), "a stream starts with Started"
    assert isinstance(completed, Completed), "a stream that ended with OK ends with Completed"
    deltas = [event for event in middle if isinstance(event, Delta)]
    return Generation(
        started=started,
        text="".join(delta.text for delta in deltas),
        tokens=tuple(token for delta in deltas for token in delta.tokens),
        readings=tuple(reading for delta in deltas for reading in delta.readings),
        completed=completed,
        fired=tuple(firing for delta in deltas for firing in delta.fired),
        baseline=_collect_baseline(deltas) if completed.baseline else None,
    )


def _collect_baseline(deltas: Iterable[Delta]) -> BaselineDelta:
    parts = [delta.baseline for delta in deltas if delta.baseline is not None]
    return BaselineDelta(
        text="".join(part.text for part in parts),
        tokens=tuple(token for part in parts for token in part.tokens),
        divergences=tuple(pair for part in parts for pair in part.divergences),
    )
