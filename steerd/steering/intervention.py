"""What a request wishes to be done to features, as data.

With z the feature's activation and d its decoder direction, each operation adds (gain * z + bias) * d to the
residual row. All edits of one hook point are computed from the same row and then added, so the SAE's error
term stays.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from steerd.steering.scope import Scope


@dataclass(frozen=True, order=True, slots=True)
class FeatureRef:
    """One feature of one served SAE."""

    sae: str
    index: int


@dataclass(frozen=True, slots=True)
class Add:
    """x + strength * d; strength is in the SAE's own activation units."""

    strength: float


@dataclass(frozen=True, slots=True)
class Set:
    """x + (value - z) * d: the feature reads `value` whatever it was."""

    value: float


@dataclass(frozen=True, slots=True)
class Scale:
    """x + (factor - 1) * z * d."""

    factor: float


@dataclass(frozen=True, slots=True)
class Ablate:
    """x - z * d: the feature's part is removed, the SAE's error term stays."""


Operation = Add | Set | Scale | Ablate


@dataclass(frozen=True, kw_only=True, slots=True)
class Intervention:
    """One edit of one feature, over a scope."""

    target: FeatureRef
    operation: Operation
    scope: Scope = field(default_factory=Scope)


def gain_and_bias(operation: Operation) -> tuple[float, float]:
    """The affine form (gain, bias) of an operation: the row becomes x + (gain * z + bias) * d."""
    match operation:
        case Add(strength):
            return 0.0, strength
        case Set(value):
            return -1.0, value
        case Scale(factor):
            return factor - 1.0, 0.0
        case Ablate():
            return -1.0, 0.0
