"""EvaluateSteering: the call to its message, and the server's answers to theirs and back."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

from steerd.client_messages import Unit
from steerd.engine.study import Progress
from steerd.intervention_wire import feature_message
from steerd.pb.v1 import feature_service_pb2 as pb
from steerd.pb.v1 import steering_pb2
from steerd.steering.intervention import FeatureRef
from steerd.studies.dose_curve import DoseCurve, DosePoint, NextTokenEffect, TextEffect
from steerd.study_wire.study_text import StudyText, progress_of, text_messages

T = TypeVar("T", NextTokenEffect, TextEffect)

_UNITS = {
    None: steering_pb2.UNIT_UNSPECIFIED,
    Unit.ACTIVATION: steering_pb2.UNIT_ACTIVATION,
    Unit.FEATURE_MAX: steering_pb2.UNIT_FEATURE_MAX,
    Unit.RESID_NORM: steering_pb2.UNIT_RESID_NORM,
}
_NUMBERS = ("strength", "feature_max", "resid_norm", "fluency", "score", "is_safe", "sample")


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateCall:
    """One EvaluateSteering call. What is None or empty stands for the server's default.

    `sets`: the feature is set to each strength instead of raised by it. With `special_token_ids` only these
    are steered, which is otherwise never done to special tokens.
    """

    feature: FeatureRef
    prompts: tuple[StudyText, ...] = ()
    strengths: tuple[float, ...] = ()
    unit: Unit | None = None
    sets: bool = False
    special_token_ids: tuple[int, ...] = ()
    max_new_tokens: int | None = None
    temperature: float | None = None
    control_texts: tuple[StudyText, ...] = ()
    control_features: int | None = None
    refinements: int | None = None
    max_surprise_gain: float | None = None
    max_repetition_gain: float | None = None
    max_side_kl: float | None = None
    request_id: str = ""
    max_seconds: float = 0.0


def evaluate_request(call: EvaluateCall) -> pb.EvaluateSteeringRequest:
    """The message of a call."""
    message = pb.EvaluateSteeringRequest(
        request_id=call.request_id,
        max_seconds=call.max_seconds,
        feature=feature_message(call.feature),
        prompts=text_messages(call.prompts),
        strengths=call.strengths,
        unit=_UNITS[call.unit],
        operation=pb.DOSE_OPERATION_SET if call.sets else pb.DOSE_OPERATION_ADD,
        max_new_tokens=call.max_new_tokens,
        temperature=call.temperature,
        control_texts=text_messages(call.control_texts),
        control_features=call.control_features,
        refinements=call.refinements,
        max_surprise_gain=call.max_surprise_gain,
        max_repetition_gain=call.max_repetition_gain,
        max_side_kl=call.max_side_kl,
    )
    if call.special_token_ids:
        message.scope.include_special_tokens = True
        message.scope.token_ids.extend(call.special_token_ids)
    return message


def curve_message(curve: DoseCurve) -> pb.EvaluateSteeringResult:
    """The message of a result."""
    message = pb.EvaluateSteeringResult(
        complete=curve.complete,
        feature=feature_message(curve.feature),
        output_score=curve.output_score,
        promoted_tokens=curve.promoted,
        plain=pb.TextEffect(**asdict(curve.plain)),
        plain_sample=curve.plain_sample,
        points=[_point_message(point) for point in curve.points],
        control_features=[feature_message(feature) for feature in curve.controls],
    )
    if curve.safe_up_to is not None:
        message.safe_up_to = curve.points.index(curve.safe_up_to)
    if curve.sweet_spot is not None:
        message.sweet_spot = curve.points.index(curve.sweet_spot)
    return message


def evaluate_event(message: pb.EvaluateSteeringResponse) -> Progress | DoseCurve:
    """One message of the stream."""
    if message.WhichOneof("event") == "progress":
        return progress_of(message.progress)
    result = message.result
    return DoseCurve(
        complete=result.complete,
        feature=FeatureRef(result.feature.sae, result.feature.index),
        output_score=result.output_score,
        promoted=tuple(result.promoted_tokens),
        plain=_effect(TextEffect, result.plain),
        plain_sample=result.plain_sample,
        points=tuple(map(_point, result.points)),
        controls=tuple(FeatureRef(ref.sae, ref.index) for ref in result.control_features),
    )


def _point_message(point: DosePoint) -> pb.DosePoint:
    message = pb.DosePoint(
        next_token=pb.NextTokenEffect(**asdict(point.next_token)),
        text=pb.TextEffect(**asdict(point.text)),
        **{name: getattr(point, name) for name in _NUMBERS},
    )
    if point.control is not None and point.control_next_token is not None:
        message.control_text.CopyFrom(pb.TextEffect(**asdict(point.control)))
        message.control_next_token.CopyFrom(pb.NextTokenEffect(**asdict(point.control_next_token)))
    return message


def _point(message: pb.DosePoint) -> DosePoint:
    has_control = message.HasField("control_text")
    numbers: dict[str, Any] = {name: getattr(message, name) for name in _NUMBERS}
    return DosePoint(
        next_token=_effect(NextTokenEffect, message.next_token),
        text=_effect(TextEffect, message.text),
        control=_effect(TextEffect, message.control_text) if has_control else None,
        control_next_token=_effect(NextTokenEffect, message.control_next_token) if has_control else None,
        **numbers,
    )


def _effect(kind: type[T], message: Any) -> T:
    """The measures by their names, which are the same on both sides."""
    return kind(**{field.name: getattr(message, field.name) for field in fields(kind)})
