"""Interventions and captured features of a request, checked against the served SAEs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from steerd.config import LimitsConfig
from steerd.engine.request import Capture
from steerd.errors import NotFound
from steerd.pb.v1 import feature_pb2
from steerd.pb.v1 import generation_service_pb2 as pb
from steerd.server.violations import Violations, shown
from steerd.steering.intervention import Ablate, Add, FeatureRef, Intervention, Operation, Scale, Set
from steerd.steering.loaded_saes import LoadedSaes
from steerd.steering.scope import Phase, Scope

_PHASES = {
    pb.PHASE_UNSPECIFIED: Phase.ALL,
    pb.PHASE_ALL: Phase.ALL,
    pb.PHASE_PROMPT: Phase.PROMPT,
    pb.PHASE_GENERATED: Phase.GENERATED,
}


@dataclass(frozen=True, slots=True)
class SteeringParser:
    """Parses one request's steering, recording every broken rule and unknown name."""

    saes: LoadedSaes
    limits: LimitsConfig
    violations: Violations

    def interventions(self, messages: Sequence[pb.Intervention]) -> tuple[Intervention, ...]:
        """The interventions, strengths and values in the SAE's own units."""
        limit = self.limits.max_interventions
        if not self.violations.must_be_at_most("interventions", len(messages), limit, "interventions"):
            return ()
        parsed = [self._intervention(message, f"interventions[{i}]") for i, message in enumerate(messages)]
        self._check_repeated(parsed)
        return tuple(intervention for intervention in parsed if intervention is not None)

    def capture(self, message: pb.Capture) -> Capture:
        """What is to be read; the most active features of every SAE unless some are named."""
        limits, violations = self.limits, self.violations
        violations.must_be_between("capture.top_k", message.top_k, 0, limits.max_top_k)
        saes = self._top_k_saes(message)
        watch: tuple[FeatureRef, ...] = ()
        limit = limits.max_watched_features
        if violations.must_be_at_most("capture.watch", len(message.watch), limit, "features"):
            watch = self._watch(message.watch)
        return Capture(
            watch=watch, top_k=message.top_k, top_k_saes=saes, include_prompt=message.include_prompt
        )

    def _intervention(self, message: pb.Intervention, field: str) -> Intervention | None:
        feature = self._feature(message.feature, f"{field}.feature") if message.HasField("feature") else None
        if not message.HasField("feature"):
            self.violations.add(f"{field}.feature", "is required")
        operation = self._operation(message, feature, field)
        scope = self._scope(message.scope, f"{field}.scope")
        if feature is None or operation is None:
            return None
        return Intervention(target=feature, operation=operation, scope=scope)

    def _operation(
        self, message: pb.Intervention, feature: FeatureRef | None, field: str
    ) -> Operation | None:
        match message.WhichOneof("operation"):
            case "add":
                name = f"{field}.add.strength"
                return Add(self._magnitude(message.add.strength, message.add.unit, feature, name))
            case "set":
                name = f"{field}.set.value"
                return Set(self._magnitude(message.set.value, message.set.unit, feature, name))
            case "scale":
                name = f"{field}.scale.factor"
                return Scale(self._magnitude(message.scale.factor, pb.UNIT_ACTIVATION, feature, name))
            case "ablate":
                return Ablate()
            case _:
                self.violations.add(f"{field}.operation", "one of add, set, scale and ablate is required")
                return None

    def _magnitude(
        self, value: float, unit: pb.Unit.ValueType, feature: FeatureRef | None, field: str
    ) -> float:
        """A finite number of bounded size, in activation units."""
        limit = self.limits.max_magnitude
        if not self.violations.must_be_between(field, value, -limit, limit) or feature is None:
            return 0.0
        match unit:
            case pb.UNIT_UNSPECIFIED | pb.UNIT_ACTIVATION:
                return value
            case pb.UNIT_FEATURE_MAX:
                resolved = value * self._max_activation(feature, field)
                bound = f"between {-limit:.7g} and {limit:.7g} in activation units"
                self.violations.must(abs(resolved) <= limit, field, bound, resolved)
                return resolved
            case _:
                self._unknown_enum(f"{field.rpartition('.')[0]}.unit", unit, pb.Unit.keys())
                return 0.0

    def _max_activation(self, feature: FeatureRef, field: str) -> float:
        statistics = self.saes.get(feature.sae).statistics
        unit_field = f"{field.rpartition('.')[0]}.unit"
        if statistics is None:
            problem = f"UNIT_FEATURE_MAX needs statistics, which SAE {feature.sae!r} does not have"
            self.violations.add(unit_field, problem)
            return 0.0
        recorded = float(statistics.max_activation[feature.index])
        if not (math.isfinite(recorded) and recorded > 0):
            problem = f"UNIT_FEATURE_MAX needs a recorded maximum above 0, but feature {feature.index}"
            self.violations.add(unit_field, f"{problem} of SAE {feature.sae!r} has {shown(recorded)}")
        return recorded

    def _scope(self, message: pb.Scope, field: str) -> Scope:
        if message.phase not in _PHASES:
            self._unknown_enum(f"{field}.phase", message.phase, pb.Phase.keys())
        phase = _PHASES.get(message.phase, Phase.ALL)
        return Scope(phase=phase, include_special_tokens=message.include_special_tokens)

    def _feature(self, message: feature_pb2.FeatureRef, field: str) -> FeatureRef | None:
        try:
            d_sae = self.saes.get(message.sae, field=f"{field}.sae").sae.d_sae
        except NotFound as error:
            self.violations.add_not_found(error)
            return None
        if message.index >= d_sae:
            known = f"SAE {message.sae!r} has features 0 to {d_sae - 1}"
            text = f"no feature {message.index}: {known}"
            self.violations.add_not_found(NotFound(text, reason="FEATURE_NOT_FOUND", field=f"{field}.index"))
            return None
        return FeatureRef(sae=message.sae, index=message.index)

    def _watch(self, messages: Sequence[feature_pb2.FeatureRef]) -> tuple[FeatureRef, ...]:
        seen: dict[FeatureRef, None] = {}
        for position, message in enumerate(messages):
            field = f"capture.watch[{position}]"
            feature = self._feature(message, field)
            if feature is not None:
                self.violations.must(
                    feature not in seen, field, "named once", f"{feature.sae}:{feature.index}"
                )
                seen[feature] = None
        return tuple(seen)

    def _top_k_saes(self, message: pb.Capture) -> tuple[str, ...]:
        names = tuple(message.top_k_saes)
        if not names:
            return tuple(sae.name for sae in self.saes) if message.top_k else ()
        if not message.top_k:
            self.violations.add(
                "capture.top_k", "must be at least 1 when capture.top_k_saes names SAEs; got 0"
            )
        if self.violations.must_be_at_most("capture.top_k_saes", len(names), len(self.saes), "served SAEs"):
            for position, name in enumerate(names):
                self._check_top_k_sae(name, names[:position], f"capture.top_k_saes[{position}]")
        return names

    def _check_top_k_sae(self, name: str, before: Sequence[str], field: str) -> None:
        try:
            self.saes.get(name, field=field)
        except NotFound as error:
            self.violations.add_not_found(error)
        self.violations.must(name not in before, field, "named once", name)

    def _check_repeated(self, interventions: Sequence[Intervention | None]) -> None:
        """Several edits of one feature have a meaning only when all add."""
        first: dict[FeatureRef, Intervention] = {}
        for position, intervention in enumerate(interventions):
            if intervention is None:
                continue
            earlier = first.setdefault(intervention.target, intervention)
            all_add = isinstance(earlier.operation, Add) and isinstance(intervention.operation, Add)
            if earlier is not intervention and not all_add:
                name = f"{intervention.target.sae}:{intervention.target.index}"
                problem = (
                    f"feature {name} is edited more than once; several edits of one feature must all be add"
                )
                self.violations.add(f"interventions[{position}]", problem)

    def _unknown_enum(self, field: str, value: int, names: Sequence[str]) -> None:
        self.violations.must(False, field, f"one of {', '.join(names)}", value)


def _printed(feature: FeatureRef) -> str:
    return f"{feature.sae}:{feature.index}"
