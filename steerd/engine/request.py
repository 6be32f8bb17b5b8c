"""A generation request after validation: nothing in it can be wrong, and it holds token ids, never text.

The one exception is `stop`: a predicate over generated ids that the edge builds from stop strings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from steerd.steering.intervention import FeatureRef
from steerd.steering.steering import Steering


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingParams:
    """How the next token is chosen. temperature 0 is greedy; top_p 1 and top_k 0 switch those filters off."""

    max_new_tokens: int
    temperature: float
    top_p: float
    top_k: int
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Capture:
    """What is read from the SAEs and sent back: watched features, and the top_k strongest per token and SAE.

    `top_k_saes` names the SAEs whose strongest features are wanted; `include_prompt` adds the prompt's rows,
    `after_edit` what watched features read after the edits of their hook point.
    """

    watch: tuple[FeatureRef, ...] = ()
    top_k: int = 0
    top_k_saes: tuple[str, ...] = ()
    include_prompt: bool = False
    after_edit: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationRequest:
    """One request, ready to run.

    `plan_hash` is that of its steering.
    With a `continuation` nothing is generated: each of its ids is scored, given the prompt and those before,
    and the rows that it takes count as generated ones. `sampling` has no meaning then.
    With `baseline` its unsteered twin runs beside it, in the same stream.
    `make_stop` returns a fresh predicate, fed each generated id in order, that says when a stop string has
    appeared; None when the request has none.
    `is_chat` says what its prompt was made of. `traceparent` names the span of a client's call, as W3C's
    header does ("" where the client has none); None for what the server asks of itself.
    """

    id: str
    prompt_ids: tuple[int, ...]
    sampling: SamplingParams
    steering: Steering = field(default_factory=Steering)
    plan_hash: str = ""
    capture: Capture = field(default_factory=Capture)
    make_stop: Callable[[], Callable[[int], bool]] | None = None
    continuation: tuple[int, ...] = ()
    baseline: bool = False
    is_chat: bool = False
    traceparent: str | None = None

    @property
    def given_ids(self) -> tuple[int, ...]:
        """The ids whose rows are run whatever the host chooses; the last of a continuation needs no row."""
        return (*self.prompt_ids, *self.continuation[:-1])

    @property
    def num_new(self) -> int:
        """How many tokens it may choose at most; a scored text has one chosen, which is thrown away."""
        return 1 if self.continuation else self.sampling.max_new_tokens


class FinishReason(Enum):
    """Why a request ended: an end-of-text token, the token budget, a stop string, a feature, a cancel; or all
    is scored."""

    STOP = "stop"
    LENGTH = "length"
    STOP_SEQUENCE = "stop_sequence"
    FEATURE = "feature"
    CANCELLED = "cancelled"
    SCORED = "scored"
