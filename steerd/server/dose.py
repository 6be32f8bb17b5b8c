"""How much a request's interventions can add to the residual stream, and what happens when it is too much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite

import numpy as np

from steerd.steering.intervention import (
    Ablate,
    Add,
    Direction,
    FeatureRef,
    Intervention,
    Limit,
    Operation,
    Reconstruct,
    Scale,
    Set,
    Target,
    WholeSae,
)
from steerd.steering.loaded_saes import LoadedSaes

_ROUNDING = 1e-4


@dataclass(frozen=True, slots=True)
class Guarded:
    """Interventions as they may be applied, what the client is to be told, and why they may not be."""

    interventions: tuple[Intervention, ...]
    warnings: tuple[str, ...]
    refusals: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DoseGuard:
    """Holds the dose of every hook point against a limit; `over_dose` is warn, clamp or reject.

    The dose is the length of all that the interventions there can add, whatever their scopes, in multiples of
    the median residual norm. Taking away what is there (ablate, reconstruct, a scale between 0 and 1) adds
    nothing; a set takes away, then adds its value. Only what is taken away along like directions more than
    once counts, as that of a row of that norm: no clamp lowers it.
    """

    saes: LoadedSaes
    max_dose: float
    over_dose: str

    def guard(self, interventions: Sequence[Intervention]) -> Guarded:
        """The interventions, weakened where the operator wants that."""
        warnings: list[str] = []
        refusals: list[str] = []
        points = [self.saes.hook_point(intervention.target).of_rows for intervention in interventions]
        factors = {}
        for point in dict.fromkeys(points):
            there = [edit for edit, its in zip(interventions, points, strict=True) if its == point]
            factors[point] = self._factor(there, warnings, refusals)
        guarded = [
            replace(edit, operation=_weakened(edit.operation, factors[point]))
            for edit, point in zip(interventions, points, strict=True)
        ]
        return Guarded(tuple(guarded), tuple(warnings), tuple(refusals))

    def uncounted(self, intervention: Intervention) -> bool:
        """Whether nothing is known of what it can add."""
        is_scale = isinstance(intervention.operation, Scale)
        return is_scale and self._largest(intervention.target) is None

    def _factor(
        self, interventions: Sequence[Intervention], warnings: list[str], refusals: list[str]
    ) -> float:
        """What the strengths at a hook point are to be multiplied by."""
        target = interventions[0].target
        point = self.saes.hook_point(target)
        warnings += [
            f"dose at {point}: no largest activation is known for a scale, it is not counted"
            for intervention in interventions
            if self.uncounted(intervention)
        ]
        length = sum(self._length(intervention) for intervention in interventions)
        fixed = _taken_twice(interventions)
        if not length and not fixed:
            return 1.0
        dose, limit = length / self.saes.median_resid_norm(target) + fixed, self.max_dose
        if dose <= limit:
            return 1.0
        told = f"{dose:.3g} times the median residual norm at {point}"
        match self.over_dose:
            case "reject" | "clamp" if self.over_dose == "reject" or fixed > limit:
                refusals.append(f"must add at most {limit:.7g} times; they can add {told}")
            case "clamp":
                factor = (limit - fixed) / (dose - fixed)
                warnings.append(f"dose: {told} is above {limit:.7g}; strengths there times {factor:.3g}")
                return factor
            case _:
                warnings.append(f"dose: {told} is above {limit:.7g}")
        return 1.0

    def _length(self, intervention: Intervention) -> float:
        """The length of what one intervention can add."""
        target = intervention.target
        if isinstance(target, WholeSae):
            return 0.0
        amount = _amount(intervention.operation, self._largest(target) or 0.0)
        return amount * self.saes.direction_length(target)

    def _largest(self, target: Target) -> float | None:
        """The largest activation recorded for a feature."""
        if not isinstance(target, FeatureRef):
            return None
        statistics = self.saes.get(target.sae).statistics
        if statistics is None:
            return None
        recorded = float(statistics.max_activation[target.index])
        # Of a feature that was never seen active, nothing is known: it may become so.
        return recorded if isfinite(recorded) and recorded > 0 else None


def _taken_twice(interventions: Sequence[Intervention]) -> float:
    """How much more of a row than there is can be taken away along directions, as a share of its length.

    Each takes its own projection of the same row: along k equal directions it goes k times, k - 1 too often.
    """
    by_point: dict[str, list[tuple[float, ...]]] = {}
    for edit in interventions:
        if isinstance(edit.target, Direction) and not isinstance(edit.operation, Add):
            by_point.setdefault(edit.target.hook_point, []).append(edit.target.values)
    excess = [float(np.linalg.norm(np.array(values), ord=2)) ** 2 - 1 for values in by_point.values()]
    return sum(each for each in excess if each > _ROUNDING)


def _amount(operation: Operation, largest: float) -> float:
    """How much an operation can add of a target whose activation is at most the largest."""
    match operation:
        case Add(amount) | Set(amount):
            return abs(amount)
        case Scale(factor):
            return max(factor - 1, -factor, 0.0) * largest
        case Limit(low, high):
            return max(low, -high, 0.0)
        case Ablate() | Reconstruct():
            return 0.0


def _weakened(operation: Operation, by: float) -> Operation:
    if by == 1.0:
        return operation
    match operation:
        case Add(strength):
            return Add(strength * by)
        case Set(value, only_if_active):
            return Set(value * by, only_if_active)
        case Scale(factor):
            return Scale(1 + (factor - 1) * by if factor > 1 else max(factor, factor * by))
        case Limit(low, high):
            # A bound that adds nothing stays: nearer to 0 it would take more away.
            return Limit(low * by if low > 0 else low, high * by if high < 0 else high)
        case Ablate() | Reconstruct():
            return operation
