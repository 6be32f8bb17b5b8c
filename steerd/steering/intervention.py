"""What a request wishes to be done to the residual stream, as data.

With z the activation of a feature (or a row's projection on a direction) and d its direction, each operation
adds a multiple of d to the row. All edits of one hook point are computed from the same row and then added, so
the SAE's error term stays, save where a whole SAE's reconstruction takes the row's place.
"""

from __future__ import annotations

import hashlib
import math
import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf

from steerd.steering.scope import Schedule, Scope

DIRECTIONS = "(directions)"
"""What stands for an SAE's name, which never looks so, where edits of clients' directions are counted."""


@dataclass(frozen=True, order=True, slots=True)
class FeatureRef:
    """One feature of one served SAE."""

    sae: str
    index: int


@dataclass(frozen=True, slots=True)
class Direction:
    """A client's direction [d_model] at a hook point in its printed form, known by its hash.

    `sha256` is that of the values as little-endian float32.
    """

    hook_point: str
    sha256: str
    values: tuple[float, ...] = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class WholeSae:
    """All features of one served SAE together."""

    sae: str


Target = FeatureRef | Direction | WholeSae


@dataclass(frozen=True, slots=True)
class Add:
    """x + strength * d; strength is in the SAE's own activation units."""

    strength: float


@dataclass(frozen=True, slots=True)
class Set:
    """x + (value - z) * d: the feature reads `value` whatever it was, or only where it was above 0."""

    value: float
    only_if_active: bool = False


@dataclass(frozen=True, slots=True)
class Scale:
    """x + (factor - 1) * z * d."""

    factor: float


@dataclass(frozen=True, slots=True)
class Ablate:
    """x - z * d: the feature's part is removed, the SAE's error term stays."""


@dataclass(frozen=True, slots=True)
class Limit:
    """x + (z brought between low and high, minus z) * d: nothing while z is between them."""

    low: float = -inf
    high: float = inf


@dataclass(frozen=True, slots=True)
class Reconstruct:
    """The row becomes what the whole SAE makes of it; the error term is dropped."""


Operation = Add | Set | Scale | Ablate | Limit | Reconstruct


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureTest:
    """Is on or off on each row by z there, before any edit of its hook point.

    Turns on where z is above `above` and off where it is at or below `release_below`, which is at most
    `above` (-inf: never off again); between them it stays as it was, off at the start. Special tokens and the
    very first token leave it as it was too, unless `include_special_tokens`.
    """

    target: FeatureRef | Direction
    above: float
    release_below: float
    include_special_tokens: bool = False


@dataclass(frozen=True, slots=True)
class Condition:
    """Holds on a row where all tests of any clause are on."""

    any_of: tuple[tuple[FeatureTest, ...], ...]

    @property
    def tests(self) -> tuple[FeatureTest, ...]:
        """Those of all clauses, in their order."""
        return tuple(test for all_of in self.any_of for test in all_of)


@dataclass(frozen=True, kw_only=True, slots=True)
class Intervention:
    """One edit of one target, over a scope, by a schedule, where its condition holds if it has one.

    The condition's tests are at the hook point of the target or at ones that come before it. `preserve_norm`
    brings each row that it edits back to the length that it had before its hook point's edits. Reconstruct
    goes with a WholeSae and with nothing else. `source` says who asks for it: empty for the request itself,
    else preset:NAME@VERSION, switch:NAME@VERSION or policy:NAME@VERSION.
    """

    target: Target
    operation: Operation
    scope: Scope = field(default_factory=Scope)
    schedule: Schedule = field(default_factory=Schedule)
    condition: Condition | None = None
    preserve_norm: bool = False
    source: str = ""

    @property
    def is_demanded(self) -> bool:
        """Whether a policy demands it: it starts from the row as all other edits of its point left it."""
        return self.source.startswith("policy:")


@dataclass(frozen=True, kw_only=True, slots=True)
class Affine:
    """What is added along d: gain * z + bias, the active ones where z > 0, and `limit_gain` times what brings
    z into limits."""

    gain: float = 0.0
    bias: float = 0.0
    active_gain: float = 0.0
    active_bias: float = 0.0
    limit_gain: float = 1.0
    low: float = -inf
    high: float = inf

    def times(self, factor: float) -> Affine:
        """The form that adds so many times as much."""
        return Affine(
            gain=factor * self.gain,
            bias=factor * self.bias,
            active_gain=factor * self.active_gain,
            active_bias=factor * self.active_bias,
            limit_gain=factor * self.limit_gain,
            low=self.low,
            high=self.high,
        )


def affine(operation: Operation) -> Affine:
    """The form that all operations on one feature or direction share; Reconstruct has none."""
    match operation:
        case Add(strength):
            return Affine(bias=strength)
        case Set(value, only_if_active=True):
            return Affine(active_gain=-1.0, active_bias=value)
        case Set(value):
            return Affine(gain=-1.0, bias=value)
        case Scale(factor):
            return Affine(gain=factor - 1.0)
        case Ablate():
            return Affine(gain=-1.0)
        case Limit(low, high):
            return Affine(low=low, high=high)
        case Reconstruct():
            raise AssertionError("a reconstruction is of a whole SAE, not along one direction")


def operation_name(operation: Operation) -> str:
    """The word used for an operation in metrics: add, set, scale, ablate, limit or reconstruct."""
    return type(operation).__name__.lower()


def target_name(target: Target) -> str:
    """The word used for a target in logs: a feature as SAE:INDEX, else its hook point or its SAE."""
    match target:
        case FeatureRef(sae, index):
            return f"{sae}:{index}"
        case Direction(hook_point):
            return hook_point
        case WholeSae(sae):
            return sae


def unit_direction(hook_point: str, values: Sequence[float]) -> Direction:
    """The direction of these finite values, not all 0, at length 1."""
    length = math.hypot(*values)
    unit = array("f", (value / length for value in values))
    little_endian = array("f", unit)
    if sys.byteorder == "big":
        little_endian.byteswap()
    return Direction(hook_point, hashlib.sha256(little_endian.tobytes()).hexdigest(), tuple(unit))
