"""What an intervention edits, features, directions and whole SAEs, checked against what is served."""

from __future__ import annotations

import math
from dataclasses import dataclass

from steerd.errors import HostError, NotFound
from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel
from steerd.pb.v1 import feature_pb2, steering_pb2
from steerd.server.violations import Violations
from steerd.steering.intervention import Direction, FeatureRef, Target, WholeSae, unit_direction
from steerd.steering.loaded_saes import EVERYWHERE, LoadedSaes


@dataclass(frozen=True, slots=True)
class TargetParser:
    """Parses targets, recording every broken rule and unknown name."""

    host: HostModel
    saes: LoadedSaes
    violations: Violations

    def target(self, message: steering_pb2.Intervention, field: str) -> Target | None:
        """What the intervention edits; None when a violation was recorded."""
        match message.WhichOneof("target"):
            case "feature":
                return self.feature(message.feature, f"{field}.feature")
            case "direction":
                return self.direction(message.direction, f"{field}.direction")
            case "sae":
                return WholeSae(message.sae) if self._is_served(message.sae, f"{field}.sae") else None
            case _:
                self.violations.add(f"{field}.target", "one of feature, direction and sae is required")
                return None

    def feature(self, message: feature_pb2.FeatureRef, field: str) -> FeatureRef | None:
        """A feature of a served SAE; None when a violation was recorded."""
        if not self._is_served(message.sae, f"{field}.sae"):
            return None
        d_sae = self.saes.get(message.sae).sae.d_sae
        if message.index >= d_sae:
            known = f"SAE {message.sae!r} has features 0 to {d_sae - 1}"
            text = f"no feature {message.index}: {known}"
            self.violations.add_not_found(NotFound(text, reason="FEATURE_NOT_FOUND", field=f"{field}.index"))
            return None
        return FeatureRef(sae=message.sae, index=message.index)

    def _is_served(self, sae: str, field: str) -> bool:
        try:
            self.saes.get(sae, field=field)
        except NotFound as error:
            self.violations.add_not_found(error)
            return False
        return True

    def direction(self, message: steering_pb2.Direction, field: str) -> Direction | None:
        """A direction at a hook point of the host; None when a violation was recorded."""
        values, violations = message.values, self.violations
        bound = f"as many as d_model, {self.host.d_model}"
        holds = [
            violations.must(len(values) == self.host.d_model, f"{field}.values", bound, len(values)),
            violations.must(not message.sha256, f"{field}.sha256", "left to the server", message.sha256),
            self._has_hook_point(message.hook_point, f"{field}.hook_point"),
        ]
        wrong = next((place for place, value in enumerate(values) if not math.isfinite(value)), None)
        if wrong is not None:
            holds.append(violations.must(False, f"{field}.values[{wrong}]", "finite", values[wrong]))
        elif values and not any(values):
            violations.add(f"{field}.values", "must not all be 0")
            return None
        return unit_direction(message.hook_point, values) if all(holds) else None

    def _has_hook_point(self, text: str, field: str) -> bool:
        """Any layer's residual stream, and what the served SAEs read: both known without a forward."""
        try:
            point = HookPoint.parse(text)
        except HostError as error:
            problem = str(error)
        else:
            in_stream = point.site in EVERYWHERE and point.layer < self.host.num_layers
            if in_stream or any(sae.hook_point == point for sae in self.saes):
                return True
            known = f"{' and '.join(EVERYWHERE)} of layers 0 to {self.host.num_layers - 1}"
            problem = f"no hook point {point} for directions; there are {known}, and those of served SAEs"
        self.violations.add_not_found(NotFound(problem, reason="HOOK_POINT_NOT_FOUND", field=field))
        return False
