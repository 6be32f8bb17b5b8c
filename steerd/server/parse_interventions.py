"""Interventions of a request, checked one by one and then against each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from steerd.config import LimitsConfig
from steerd.host.hook_point import HookPoint
from steerd.pb.v1 import steering_pb2 as pb
from steerd.server.parse_magnitude import MagnitudeParser
from steerd.server.parse_scope import ScopeParser
from steerd.server.parse_target import TargetParser
from steerd.server.violations import Violations
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


@dataclass(frozen=True, slots=True)
class InterventionParser:
    """Parses one request's interventions, recording every broken rule and unknown name."""

    targets: TargetParser
    magnitudes: MagnitudeParser
    scopes: ScopeParser
    limits: LimitsConfig
    violations: Violations

    def interventions(self, messages: Sequence[pb.Intervention]) -> tuple[Intervention, ...]:
        """The interventions, strengths and values in activation units."""
        must_be_at_most, limits = self.violations.must_be_at_most, self.limits
        if not must_be_at_most("interventions", len(messages), limits.max_interventions, "interventions"):
            return ()
        values = sum(len(message.direction.values) for message in messages)
        if not must_be_at_most("interventions", values, limits.max_direction_values, "values of directions"):
            return ()
        parsed = [self._intervention(message, f"interventions[{i}]") for i, message in enumerate(messages)]
        self._check_repeated(parsed)
        self._check_reconstructions(parsed)
        return tuple(intervention for intervention in parsed if intervention is not None)

    def _intervention(self, message: pb.Intervention, field: str) -> Intervention | None:
        target = self.targets.target(message, field)
        operation = self._operation(message, target, field)
        scope = self.scopes.scope(message.scope, f"{field}.scope")
        schedule = self.scopes.schedule(message.schedule, f"{field}.schedule")
        if target is None or operation is None or not self._belong_together(target, operation, field):
            return None
        return Intervention(
            target=target,
            operation=operation,
            scope=scope,
            schedule=schedule,
            preserve_norm=message.preserve_norm,
        )

    def _operation(self, message: pb.Intervention, target: Target | None, field: str) -> Operation | None:
        magnitude = self.magnitudes.magnitude
        match message.WhichOneof("operation"):
            case "add":
                add = message.add
                return Add(magnitude(add.strength, add.unit, target, f"{field}.add.strength"))
            case "set":
                value = magnitude(message.set.value, message.set.unit, target, f"{field}.set.value")
                return Set(value, message.set.only_if_active)
            case "scale":
                factor = message.scale.factor
                return Scale(magnitude(factor, pb.UNIT_ACTIVATION, target, f"{field}.scale.factor"))
            case "ablate":
                return Ablate()
            case "limit":
                return self._limit(message.limit, target, f"{field}.limit")
            case "reconstruct":
                return Reconstruct()
            case _:
                names = "add, set, scale, ablate, limit and reconstruct"
                self.violations.add(f"{field}.operation", f"one of {names} is required")
                return None

    def _limit(self, message: pb.Limit, target: Target | None, field: str) -> Limit:
        low, high = -inf, inf
        if message.HasField("min"):
            low = self.magnitudes.magnitude(message.min, message.unit, target, f"{field}.min")
        if message.HasField("max"):
            high = self.magnitudes.magnitude(message.max, message.unit, target, f"{field}.max")
        if low == -inf and high == inf:
            self.violations.add(field, "needs min, max or both")
        self.violations.must(not low > high, f"{field}.min", f"at most max, {high:.7g}", low)
        return Limit(low, high)

    def _belong_together(self, target: Target, operation: Operation, field: str) -> bool:
        is_whole = isinstance(target, WholeSae)
        holds = is_whole == isinstance(operation, Reconstruct)
        if not holds:
            problem = "a whole SAE can only be reconstructed" if is_whole else "only a whole SAE can be"
            self.violations.add(f"{field}.operation", f"must fit its target: {problem} (reconstruct)")
        return holds

    def _check_repeated(self, interventions: Sequence[Intervention | None]) -> None:
        """Several edits of one target have a meaning only when all add."""
        first: dict[Target, Intervention] = {}
        for position, intervention in enumerate(interventions):
            if intervention is None:
                continue
            earlier = first.setdefault(intervention.target, intervention)
            all_add = isinstance(earlier.operation, Add) and isinstance(intervention.operation, Add)
            if earlier is not intervention and not all_add:
                problem = f"{_printed(intervention.target)} is edited more than once"
                bound = "several edits of one target must all be add"
                self.violations.add(f"interventions[{position}]", f"{problem}; {bound}")

    def _check_reconstructions(self, interventions: Sequence[Intervention | None]) -> None:
        """A row has one reconstruction, so SAEs of one hook point cannot both take its place."""
        taken: dict[HookPoint, str] = {}
        for position, intervention in enumerate(interventions):
            if intervention is None or not isinstance(intervention.target, WholeSae):
                continue
            sae = intervention.target.sae
            hook_point = self.targets.saes.get(sae).hook_point
            if taken.setdefault(hook_point, sae) != sae:
                problem = f"rows at {hook_point} are reconstructed by {taken[hook_point]!r} already"
                self.violations.add(f"interventions[{position}].reconstruct", problem)


def _printed(target: Target) -> str:
    match target:
        case FeatureRef(sae, index):
            return f"feature {sae}:{index}"
        case Direction(hook_point):
            return f"the same direction at {hook_point}"
        case WholeSae(sae):
            return f"SAE {sae!r}"
