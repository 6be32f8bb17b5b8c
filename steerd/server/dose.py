"""How much a request's interventions can add to the residual stream, and what happens when it is too much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite

from steerd.config import SteeringConfig
from steerd.server.violations import Violations
from steerd.steering.intervention import (
    Ablate,
    Add,
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


@dataclass(frozen=True, slots=True)
class DoseGuard:
    """Holds the dose of every hook point against the operator's limit.

    The dose is the length of all that the interventions there can add, whatever their scopes, in multiples of
    the median residual norm. Taking away what is there (ablate, reconstruct, a scale between 0 and 1) adds
    nothing; a set takes away, then adds its value.
    """

    saes: LoadedSaes
    config: SteeringConfig

    def guard(
        self, interventions: tuple[Intervention, ...], violations: Violations
    ) -> tuple[tuple[Intervention, ...], tuple[str, ...]]:
        """The interventions, weakened where the operator wants that, and what the client is to be told."""
        warnings: list[str] = []
        by_point: dict[str, list[Intervention]] = {}
        for intervention in interventions:
            by_point.setdefault(self.saes.printed_hook_point(intervention.target), []).append(intervention)
        factors = {
            point: self._factor(point, there, violations, warnings) for point, there in by_point.items()
        }
        guarded = [
            replace(
                intervention,
                operation=_weakened(
                    intervention.operation, factors[self.saes.printed_hook_point(intervention.target)]
                ),
            )
            for intervention in interventions
        ]
        return tuple(guarded), tuple(warnings)

    def _factor(
        self, point: str, interventions: Sequence[Intervention], violations: Violations, warnings: list[str]
    ) -> float:
        """What the strengths at a hook point are to be multiplied by."""
        for intervention in interventions:
            if isinstance(intervention.operation, Scale) and self._largest(intervention.target) is None:
                warnings.append(
                    f"dose at {point}: no largest activation is known for a scale, it is not counted"
                )
        length = sum(self._length(intervention) for intervention in interventions)
        if not length:
            return 1.0
        norm = self.saes.median_resid_norm(interventions[0].target)
        dose, limit = length / norm, self.config.max_dose
        if dose <= limit:
            return 1.0
        told = f"{dose:.3g} times the median residual norm at {point}"
        match self.config.over_dose:
            case "reject":
                violations.add("interventions", f"must add at most {limit:.7g} times; they can add {told}")
            case "clamp":
                warnings.append(
                    f"dose: {told} is above {limit:.7g}; strengths there times {limit / dose:.3g}"
                )
                return limit / dose
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
        return recorded if isfinite(recorded) else None


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
            return Limit(low * by, high * by)
        case Ablate() | Reconstruct():
            return operation
