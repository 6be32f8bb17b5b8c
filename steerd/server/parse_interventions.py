"""Interventions of a request or of the configuration, each checked by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from steerd.config import LimitsConfig
from steerd.host.host_model import HostModel
from steerd.pb.v1 import steering_pb2 as pb
from steerd.server.edit_conflicts import PlacedEdit
from steerd.server.parse_condition import ConditionParser, num_tested_values
from steerd.server.parse_magnitude import MagnitudeParser
from steerd.server.parse_scope import ScopeParser
from steerd.server.parse_target import TargetParser
from steerd.server.violations import Violations
from steerd.steering.intervention import (
    Ablate,
    Add,
    Condition,
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
class InterventionParser:
    """Parses interventions, recording every broken rule and unknown name."""

    targets: TargetParser
    magnitudes: MagnitudeParser
    scopes: ScopeParser
    conditions: ConditionParser
    limits: LimitsConfig
    violations: Violations

    def interventions(self, messages: Sequence[pb.Intervention], field: str) -> list[PlacedEdit]:
        """The interventions that break no rule by themselves, strengths and values in activation units."""
        must_be_at_most, limits = self.violations.must_be_at_most, self.limits
        if not must_be_at_most(field, len(messages), limits.max_interventions, "interventions"):
            return []
        values = num_direction_values(messages)
        if not must_be_at_most(field, values, limits.max_direction_values, "values of directions"):
            return []
        places = [f"{field}[{position}]" for position in range(len(messages))]
        parsed = [self._intervention(message, place) for message, place in zip(messages, places, strict=True)]
        return [
            PlacedEdit(place, edit) for place, edit in zip(places, parsed, strict=True) if edit is not None
        ]

    def _intervention(self, message: pb.Intervention, field: str) -> Intervention | None:
        self.violations.must(not message.source, f"{field}.source", "left to the server", message.source)
        target = self.targets.target(message, field)
        operation = self._operation(message, target, field)
        scope = self.scopes.scope(message.scope, f"{field}.scope")
        schedule = self.scopes.schedule(message.schedule, f"{field}.schedule")
        condition = self._condition(message, target, field)
        if target is None or operation is None or not self._belong_together(target, operation, field):
            return None
        return Intervention(
            target=target,
            operation=operation,
            scope=scope,
            schedule=schedule,
            condition=condition,
            preserve_norm=message.preserve_norm,
        )

    def _condition(self, message: pb.Intervention, target: Target | None, field: str) -> Condition | None:
        if not message.HasField("when"):
            return None
        known_at = None if target is None else self.targets.saes.hook_point(target)
        return self.conditions.condition(message.when, f"{field}.when", known_at)

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


def num_direction_values(messages: Sequence[pb.Intervention]) -> int:
    """How many values the directions have that these edit or test."""
    own = sum(len(message.direction.values) for message in messages)
    return own + sum(num_tested_values(message.when) for message in messages)


def intervention_parser(
    host: HostModel, saes: LoadedSaes, limits: LimitsConfig, violations: Violations, *, has_roles: bool
) -> InterventionParser:
    """A parser that records into `violations`; `has_roles` says whether scopes may ask for roles."""
    targets, magnitudes = TargetParser(host, saes, violations), MagnitudeParser(saes, limits, violations)
    return InterventionParser(
        targets,
        magnitudes,
        ScopeParser(host.vocab_size, has_roles, limits, violations),
        ConditionParser(targets, magnitudes, violations),
        limits,
        violations,
    )
