"""A request's interventions and readings, resolved to columns of the feature tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from steerd.steering.intervention import Add, FeatureRef, Intervention, Operation, Phase, Scale, Scope, Set


@dataclass(frozen=True, slots=True)
class ResolvedEdit:
    """One intervention as (gain, bias) on one column, with the rows it is for."""

    feature: int
    column: int
    gain: float
    bias: float
    operation: str
    scope: Scope


@dataclass(frozen=True, slots=True)
class SaeWishes:
    """What one request wants of one SAE.

    `features` are all the features it watches or steers, watched ones first in the order asked, and `columns`
    where they stand in the table; `num_watched` of them are sent with every token.
    """

    sae: str
    edits: tuple[ResolvedEdit, ...]
    features: tuple[int, ...]
    columns: tuple[int, ...]
    num_watched: int
    top_k: int


@dataclass(frozen=True, slots=True)
class RequestWishes:
    """What one request wants of every SAE, and what is needed to find its rows."""

    prompt_length: int
    include_prompt: bool
    by_sae: tuple[SaeWishes, ...]

    def of(self, sae: str) -> SaeWishes | None:
        """Its wishes of one SAE, if any."""
        return next((wishes for wishes in self.by_sae if wishes.sae == sae), None)


def operation_name(operation: Operation) -> str:
    """The word used for an operation in metrics: add, set, scale or ablate."""
    match operation:
        case Add():
            return "add"
        case Set():
            return "set"
        case Scale():
            return "scale"
        case _:
            return "ablate"


def wanted_features(
    sae: str, watch: Sequence[FeatureRef], interventions: Sequence[Intervention]
) -> tuple[tuple[int, ...], int]:
    """Features of `sae` that are watched, then those only steered, each once; and how many are watched."""
    watched = list(dict.fromkeys(ref.index for ref in watch if ref.sae == sae))
    steered = [edit.feature.index for edit in interventions if edit.feature.sae == sae]
    return tuple(dict.fromkeys([*watched, *steered])), len(watched)


def rows_in_scope(
    scope: Scope, first_position: int, token_ids: Sequence[int], prompt_length: int, special: frozenset[int]
) -> list[int]:
    """Offsets into a span of rows (one a token, positions from `first_position`) that the scope covers."""
    start, end = 0, len(token_ids)
    num_prompt = min(max(prompt_length - first_position, 0), end)
    if scope.phase is Phase.PROMPT:
        end = num_prompt
    elif scope.phase is Phase.GENERATED:
        start = num_prompt
    if scope.include_special_tokens:
        return list(range(start, end))
    return [offset for offset in range(start, end) if token_ids[offset] not in special]
