"""What the engine tells: to each request's stream, and to the observer that keeps the metrics."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from steerd.engine.faults import Fault
from steerd.engine.request import FinishReason, GenerationRequest
from steerd.engine.watch_list import WatchList
from steerd.steering.intervention import FeatureRef
from steerd.steering.receipt import NO_RECEIPT, Receipt

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class TokenReading:
    """Activations of one token in one SAE, before any edit: watched features first, then the top-k.

    `values_after` are those of the watched ones after all edits of the hook point, if they were asked for.
    """

    position: int
    sae: str
    features: Sequence[int]
    values: Sequence[float]
    values_after: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class StartedEvent:
    """The request left the waiting line; its first step is about to run."""

    queue_seconds: float


@dataclass(frozen=True, slots=True)
class PromptEvent:
    """Readings of tokens that come with no later one: of the prompt, when the capture includes it, one event
    a prefill chunk; and of the token on which a trigger ended the text."""

    readings: tuple[TokenReading, ...]


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """One generated token. `logprob` is the natural log of its probability under the (steered) host before
    temperature and filters. `readings` are those of the row that produced it, at position `position - 1`."""

    token_id: int
    position: int
    logprob: float
    readings: tuple[TokenReading, ...]


@dataclass(frozen=True, slots=True)
class ScoredEvent:
    """Tokens of the continuation that the request scores, at positions from `first_position`.

    `logprobs` are as TokenEvent's, `likeliest` says whether no other token was likelier. `readings` are those
    of the rows before each token (and of the prompt's rows when the capture includes them).
    """

    first_position: int
    logprobs: tuple[float, ...]
    likeliest: tuple[bool, ...]
    readings: tuple[TokenReading, ...]


@dataclass(frozen=True, slots=True)
class Firing:
    """A trigger's condition came to hold on the row at a position; the token there was told before."""

    trigger: str
    position: int


@dataclass(frozen=True, slots=True)
class FiredEvent:
    """All that fired on a request's rows in one step, at least one; in a prompt that may be many."""

    firings: tuple[Firing, ...]


@dataclass(frozen=True, slots=True)
class BaselineEvent:
    """A token of the request's unsteered twin."""

    token: TokenEvent


@dataclass(frozen=True, slots=True)
class DivergenceEvent:
    """How far the distributions of a position's token are apart: KL(steered || baseline) in nats.

    From the first token on that differs they are distributions after different texts.
    """

    position: int
    kl: float


@dataclass(frozen=True, slots=True)
class BaselineOutcome:
    """How the unsteered twin of a request ended.

    `first_diverging_position` is that of the first token in which the two differ, None when they never do;
    `mean_kl` is the mean divergence up to there.
    """

    reason: FinishReason
    prompt_tokens: int
    generated_tokens: int
    cached_prompt_tokens: int
    first_diverging_position: int | None
    mean_kl: float


@dataclass(frozen=True, slots=True)
class FeatureUse:
    """What one watched or steered feature did over a request.

    Activations are before the edit, over the rows run that are ordinary: no special token, nor the very first
    token, whose row a host makes unlike all others whatever the token is.
    """

    feature: FeatureRef
    max_activation: float
    mean_activation: float
    active_tokens: int
    steered_tokens: int


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds of a request's life. The sum is its time in the engine."""

    queue_seconds: float
    prefill_seconds: float
    decode_seconds: float


@dataclass(frozen=True, slots=True)
class FinishedEvent:
    """The last event of a request that ran to an end; `baseline` when it asked for one.

    `cancel_seconds`: from its cancel, if that ended it, until what it held was free.
    `cached_prompt_tokens` of the prompt's tokens did not run, as an earlier request had left their keys and
    values. `ended` is when, in seconds since 1970.
    """

    reason: FinishReason
    prompt_tokens: int
    generated_tokens: int
    timings: Timings
    features: tuple[FeatureUse, ...]
    receipt: Receipt = NO_RECEIPT
    cached_prompt_tokens: int = 0
    baseline: BaselineOutcome | None = None
    cancel_seconds: float | None = None
    ended: float = field(default_factory=time.time, compare=False)


@dataclass(frozen=True, slots=True)
class FailedEvent:
    """The last event of a request that the engine could not finish; `error` is for the client.

    `seconds` went by from its submission until it `ended`, which is in seconds since 1970.
    """

    error: Exception
    fault: Fault | None = None
    seconds: float = 0.0
    ended: float = field(default_factory=time.time, compare=False)


LastEvent = FinishedEvent | FailedEvent
StreamEvent = (
    StartedEvent
    | PromptEvent
    | TokenEvent
    | ScoredEvent
    | FiredEvent
    | BaselineEvent
    | DivergenceEvent
    | LastEvent
)


@dataclass(frozen=True, slots=True)
class ActiveEntries:
    """Pairs of a row of a step and a feature that is active there: three arrays [entries], in row order."""

    rows: Ints
    features: Ints
    values: Floats


NOTHING_ACTIVE = ActiveEntries(
    np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)
)


@dataclass(frozen=True, slots=True)
class WatchedRows:
    """What the watched features did on the rows of a step; the features of `active` are positions in the
    list."""

    watch: WatchList
    active: ActiveEntries = NOTHING_ACTIVE


@dataclass(frozen=True, slots=True)
class SampledRows:
    """The rows [samples] of a step that one SAE encoded whole, and all the features active on them.

    `unexplained` [samples] is the share of their variance that the reconstruction leaves; not finite where
    the row is not.
    """

    rows: Ints
    active: ActiveEntries
    unexplained: Floats

    @property
    def active_features(self) -> Ints:
        """The number of active features (L0) of each row, [samples]."""
        return np.bincount(np.searchsorted(self.rows, self.active.rows), minlength=len(self.rows))


@dataclass(frozen=True, slots=True)
class StepReport:
    """One engine step, for the observer. Special and first tokens count in no feature number.

    `prompt_tokens` are the rows run of prompts and scored texts, `generated_tokens` the tokens sampled,
    `batch_size` the requests in the step; `running` and `waiting` are as it ended. `request_ids` own the rows
    from `first_rows` on, which are of tokens at positions from `first_positions` on; a baseline, which is no
    client's request, has the id "". `new_tokens` are the ids of the tokens sampled, by request. By SAE:
    `monitored_tokens`, the rows its features were read on, and the `sampled` rows. `steering_seconds` went by
    for planning, reading and editing.
    """

    duration_seconds: float
    prompt_tokens: int
    generated_tokens: int
    batch_size: int
    running: int
    waiting: int
    kv_used_bytes: int
    kv_total_bytes: int
    request_ids: tuple[str, ...]
    first_rows: Ints
    first_positions: Ints
    new_tokens: Mapping[str, int]
    monitored_tokens: dict[str, int]
    sampled: Mapping[str, SampledRows]
    watched: WatchedRows
    steering_seconds: float


class EngineObserver(Protocol):
    """Told of every step and every request's end, on the engine thread; must return at once."""

    def step_finished(self, report: StepReport) -> None: ...

    def request_finished(self, request: GenerationRequest, event: LastEvent) -> None: ...

    def first_token(self, request: GenerationRequest, seconds: float) -> None: ...
