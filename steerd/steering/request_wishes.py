"""A request's interventions and readings, resolved to columns of the feature tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from steerd.steering.intervention import Add, FeatureRef, Intervention, Operation, Scale, Set, gain_and_bias
from steerd.steering.scope import Scope


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
    steered = [edit.target.index for edit in interventions if edit.target.sae == sae]
    return tuple(dict.fromkeys([*watched, *steered])), len(watched)


def resolve_edits(
    sae: str, interventions: Sequence[Intervention], columns: Mapping[int, int]
) -> tuple[ResolvedEdit, ...]:
    """The interventions on features of `sae`, with the columns that the features have."""
    edits = []
    for intervention in interventions:
        if intervention.target.sae == sae:
            gain, bias = gain_and_bias(intervention.operation)
            edits.append(
                ResolvedEdit(
                    feature=intervention.target.index,
                    column=columns[intervention.target.index],
                    gain=gain,
                    bias=bias,
                    operation=operation_name(intervention.operation),
                    scope=intervention.scope,
                )
            )
    return tuple(edits)
