"""Strengths, values and limits, brought to activation units."""

from __future__ import annotations

import math
from dataclasses import dataclass

from steerd.config import LimitsConfig
from steerd.pb.v1 import steering_pb2 as pb
from steerd.server.violations import Violations, shown
from steerd.steering.intervention import FeatureRef, Target, WholeSae
from steerd.steering.loaded_saes import LoadedSaes


@dataclass(frozen=True, slots=True)
class MagnitudeParser:
    """Parses finite numbers of bounded size, recording every broken rule."""

    saes: LoadedSaes
    limits: LimitsConfig
    violations: Violations

    def magnitude(self, value: float, unit: pb.Unit.ValueType, target: Target | None, field: str) -> float:
        """The number in activation units; meaningless once a violation was recorded.

        The unit's field is `unit` beside `field`.
        """
        limit = self.limits.max_magnitude
        if not self.violations.must_be_between(field, value, -limit, limit) or target is None:
            return 0.0
        one = self._unit(unit, target, f"{field.rpartition('.')[0]}.unit")
        bound = f"between {-limit:.7g} and {limit:.7g} in activation units"
        self.violations.must(abs(value * one) <= limit, field, bound, value * one)
        return value * one

    def _unit(self, unit: pb.Unit.ValueType, target: Target, field: str) -> float:
        match unit:
            case pb.UNIT_UNSPECIFIED | pb.UNIT_ACTIVATION:
                return 1.0
            case pb.UNIT_FEATURE_MAX:
                return self._max_activation(target, field)
            case pb.UNIT_RESID_NORM:
                assert not isinstance(target, WholeSae)  # it has no strength
                return self.saes.median_resid_norm(target) / self.saes.direction_length(target)
            case _:
                self.violations.must(False, field, f"one of {', '.join(pb.Unit.keys())}", unit)
                return 0.0

    def _max_activation(self, target: Target, field: str) -> float:
        if not isinstance(target, FeatureRef):
            problem = "UNIT_FEATURE_MAX is for features; nothing is recorded of a direction"
            self.violations.add(field, problem)
            return 0.0
        statistics = self.saes.get(target.sae).statistics
        if statistics is None:
            problem = f"UNIT_FEATURE_MAX needs statistics, which SAE {target.sae!r} does not have"
            self.violations.add(field, problem)
            return 0.0
        recorded = float(statistics.max_activation[target.index])
        if not (math.isfinite(recorded) and recorded > 0):
            problem = f"UNIT_FEATURE_MAX needs a recorded maximum above 0, but feature {target.index}"
            self.violations.add(field, f"{problem} of SAE {target.sae!r} has {shown(recorded)}")
        return recorded
