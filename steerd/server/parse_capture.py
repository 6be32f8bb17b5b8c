"""What a request wants to read, checked against the served SAEs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from steerd.config import LimitsConfig
from steerd.engine.request import Capture
from steerd.errors import NotFound
from steerd.pb.v1 import feature_pb2
from steerd.pb.v1 import generation_service_pb2 as pb
from steerd.server.parse_target import TargetParser
from steerd.server.violations import Violations
from steerd.steering.intervention import FeatureRef
from steerd.steering.loaded_saes import LoadedSaes


@dataclass(frozen=True, slots=True)
class CaptureParser:
    """Parses one request's readings, recording every broken rule and unknown name."""

    saes: LoadedSaes
    targets: TargetParser
    limits: LimitsConfig
    violations: Violations

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
            watch=watch,
            top_k=message.top_k,
            top_k_saes=saes,
            include_prompt=message.include_prompt,
            after_edit=message.after_edit,
        )

    def _watch(self, messages: Sequence[feature_pb2.FeatureRef]) -> tuple[FeatureRef, ...]:
        seen: dict[FeatureRef, None] = {}
        for position, message in enumerate(messages):
            field = f"capture.watch[{position}]"
            feature = self.targets.feature(message, field)
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
