"""An EvaluateSteeringRequest -> DoseWish."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

from steerd.pb.v1 import feature_service_pb2 as pb
from steerd.pb.v1 import generation_service_pb2, steering_pb2
from steerd.server.control_features import control_features
from steerd.server.dose_requests import DoseWish
from steerd.server.dose_texts import default_controls, default_prompts
from steerd.server.parse_scope import ScopeParser
from steerd.server.parse_study import StudyParser
from steerd.server.parse_target import TargetParser
from steerd.steering.intervention import FeatureRef
from steerd.studies.dose_curve import DoseBounds

_MOST_PROMPTS = 64
_MOST_STRENGTHS = 16
_MOST_REFINEMENTS = 6
_MOST_CONTROL_FEATURES = 4
_LARGEST_GAIN = 100.0  # nats
_OF_MAXIMUM = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0)
_OF_NORM = (0.1, 0.2, 0.4, 0.6, 0.8, 1.0)


def parse_evaluate(message: pb.EvaluateSteeringRequest, parser: StudyParser) -> DoseWish | None:
    """What is to be evaluated; None when a rule was broken, all of which are recorded with the parser."""
    violations, saes = parser.violations, parser.saes
    parser.common(message)
    feature = TargetParser(parser.host, saes, violations).feature(message.feature, "feature")
    prompts = _texts("prompts", message.prompts, parser) or default_prompts(parser.host)
    controls = _texts("control_texts", message.control_texts, parser) or default_controls()
    _check_scope(message.scope, parser)
    operations = pb.DoseOperation.keys()
    violations.must(
        message.operation in pb.DoseOperation.values(),
        "operation",
        f"one of {', '.join(operations)}",
        message.operation,
    )
    numbers = _Numbers(message, parser)
    if feature is None:
        return None
    feature_max = _recorded_maximum(feature, parser)
    resid_norm = saes.median_resid_norm(feature) / saes.direction_length(feature)
    strengths = _strengths(message, feature_max, resid_norm, parser)
    if not strengths:
        return None
    return DoseWish(
        feature=feature,
        feature_max=feature_max,
        resid_norm=resid_norm,
        strengths=strengths,
        sets=message.operation == pb.DOSE_OPERATION_SET,
        scope=message.scope,
        prompts=prompts,
        controls=controls,
        control_features=control_features(saes, feature, numbers.control_features),
        sampling=numbers.sampling,
        refinements=numbers.refinements,
        bounds=numbers.bounds,
    )


class _Numbers:
    """The numbers of a request, with their defaults."""

    def __init__(self, message: pb.EvaluateSteeringRequest, parser: StudyParser) -> None:
        self._message = message
        self._must_be_between = parser.violations.must_be_between
        limits = parser.config.limits
        new_tokens = int(self._of("max_new_tokens", 32, 1, limits.max_new_tokens))
        temperature = self._of("temperature", 0.7, 0, 100)
        self.sampling = generation_service_pb2.SamplingParams(
            max_new_tokens=new_tokens, temperature=temperature
        )
        self.control_features = int(self._of("control_features", 1, 0, _MOST_CONTROL_FEATURES))
        self.refinements = int(self._of("refinements", 2, 0, _MOST_REFINEMENTS))
        side_kl = self._of("max_side_kl", _LARGEST_GAIN, 0, _LARGEST_GAIN)
        self.bounds = DoseBounds(
            surprise_gain=self._of("max_surprise_gain", 0.7, 0, _LARGEST_GAIN),
            repetition_gain=self._of("max_repetition_gain", 0.2, 0, 1),
            side_kl=side_kl if message.HasField("max_side_kl") else None,
        )

    def _of(self, field: str, default: float, low: float, high: float) -> float:
        if not self._message.HasField(field):  # type: ignore[arg-type]  # the names above are its fields
            return default
        value: float = getattr(self._message, field)
        self._must_be_between(field, value, low, high)
        return value


def _texts(field: str, messages: Sequence[pb.Text], parser: StudyParser) -> tuple[pb.Text, ...]:
    """Texts that are given and as they must be."""
    if not messages or not parser.violations.must_be_at_most(field, len(messages), _MOST_PROMPTS, "texts"):
        return ()
    parser.texts(field, messages)
    return tuple(messages)


def _check_scope(scope: steering_pb2.Scope, parser: StudyParser) -> None:
    """Texts of a study may be chats or not, so there are no roles."""
    ScopeParser(parser.host.vocab_size, False, parser.config.limits, parser.violations).scope(scope, "scope")


def _recorded_maximum(feature: FeatureRef, parser: StudyParser) -> float:
    """0 when there is none."""
    statistics = parser.saes.get(feature.sae).statistics
    recorded = 0.0 if statistics is None else float(statistics.max_activation[feature.index])
    return recorded if isfinite(recorded) and recorded > 0 else 0.0


def _strengths(
    message: pb.EvaluateSteeringRequest, feature_max: float, resid_norm: float, parser: StudyParser
) -> tuple[float, ...]:
    """In activation units and rising; empty when a rule was broken."""
    units = {
        steering_pb2.UNIT_UNSPECIFIED: feature_max or resid_norm,
        steering_pb2.UNIT_ACTIVATION: 1.0,
        steering_pb2.UNIT_FEATURE_MAX: feature_max,
        steering_pb2.UNIT_RESID_NORM: resid_norm,
    }
    violations, limit = parser.violations, parser.config.limits.max_magnitude
    if not violations.must(message.unit in units, "unit", "a Unit", message.unit):
        return ()
    one = units[message.unit]
    if not violations.must(one > 0, "unit", "another: the feature has no recorded maximum", message.unit):
        return ()
    defaults = _OF_MAXIMUM if one == feature_max else _OF_NORM
    asked = tuple(message.strengths) or defaults
    violations.must_be_at_most("strengths", len(asked), _MOST_STRENGTHS, "strengths")
    for place, strength in enumerate(asked):
        bound = f"above 0 and at most {limit:.7g} in activation units"
        violations.must(0 < strength * one <= limit, f"strengths[{place}]", bound, strength)
    return tuple(sorted({strength * one for strength in asked}))
