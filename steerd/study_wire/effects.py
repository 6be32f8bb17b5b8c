"""MeasureEffects: the call to its message, and the server's answer to its own and back."""

from __future__ import annotations

from dataclasses import dataclass

from steerd.engine.study import Progress
from steerd.intervention_wire import feature_message
from steerd.pb.v1 import feature_service_pb2 as pb
from steerd.steering.intervention import FeatureRef
from steerd.studies.effect_table import EffectTable, FeatureEffect
from steerd.study_wire.label import label_message, label_of
from steerd.study_wire.steered_text import (
    SteeredStudyText,
    applied_steering,
    applied_steering_message,
    steered_fields,
)
from steerd.study_wire.study_text import progress_of


@dataclass(frozen=True, kw_only=True, slots=True)
class EffectsCall:
    """One MeasureEffects call: each feature is ablated by itself."""

    steered: SteeredStudyText
    features: tuple[FeatureRef, ...]
    include_special_tokens: bool = False
    request_id: str = ""
    max_seconds: float = 0.0


def effects_request(call: EffectsCall) -> pb.MeasureEffectsRequest:
    """The message of a call."""
    return pb.MeasureEffectsRequest(
        request_id=call.request_id,
        max_seconds=call.max_seconds,
        features=[feature_message(feature) for feature in call.features],
        include_special_tokens=call.include_special_tokens,
        **steered_fields(call.steered),
    )


def effects_message(table: EffectTable) -> pb.MeasureEffectsResult:
    """The message of a result."""
    return pb.MeasureEffectsResult(
        complete=table.complete,
        steering=applied_steering_message(table.steering),
        token_ids=table.token_ids,
        token_texts=table.token_texts,
        logprobs=table.logprobs,
        ordinary=table.ordinary,
        effects=[
            pb.FeatureEffect(
                feature=feature_message(effect.feature),
                label=label_message(effect.label),
                activations=effect.activations,
                changes=effect.changes,
                total_change=effect.total_change,
            )
            for effect in table.effects
        ],
    )


def effects_event(message: pb.MeasureEffectsResponse) -> Progress | EffectTable:
    """One message of the stream."""
    if message.WhichOneof("event") == "progress":
        return progress_of(message.progress)
    result = message.result
    return EffectTable(
        token_ids=tuple(result.token_ids),
        token_texts=tuple(result.token_texts),
        logprobs=tuple(result.logprobs),
        ordinary=tuple(result.ordinary),
        effects=tuple(
            FeatureEffect(
                feature=FeatureRef(effect.feature.sae, effect.feature.index),
                label=label_of(effect.label) if effect.HasField("label") else None,
                activations=tuple(effect.activations),
                changes=tuple(effect.changes),
            )
            for effect in result.effects
        ),
        steering=applied_steering(result.steering),
        complete=result.complete,
    )
