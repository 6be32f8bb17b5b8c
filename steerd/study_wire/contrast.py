"""ContrastFeatures: the call to its message, and the server's answers to theirs and back."""

from __future__ import annotations

from dataclasses import dataclass

from steerd.engine.study import Progress
from steerd.intervention_wire import feature_message
from steerd.pb.v1 import feature_service_pb2 as pb
from steerd.steering.intervention import FeatureRef
from steerd.studies.contrast_table import (
    Contrast,
    ContrastedFeature,
    Difference,
    FeatureUse,
    Strength,
    TextCount,
)
from steerd.study_wire.label import label_message, label_of
from steerd.study_wire.study_text import StudyText, progress_of, text_messages

STRENGTHS: dict[Strength, pb.TextStrength.ValueType] = {
    "peak": pb.TEXT_STRENGTH_PEAK,
    "mean": pb.TEXT_STRENGTH_MEAN,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ContrastCall:
    """One ContrastFeatures call. None stands for the server's default, no SAE for all of them."""

    a: tuple[StudyText, ...]
    b: tuple[StudyText, ...]
    saes: tuple[str, ...] = ()
    strength: Strength = "peak"
    false_discovery_rate: float | None = None
    top: int | None = None
    seed: int = 0
    include_special_tokens: bool = False
    request_id: str = ""
    max_seconds: float = 0.0


def contrast_request(call: ContrastCall) -> pb.ContrastFeaturesRequest:
    """The message of a call."""
    return pb.ContrastFeaturesRequest(
        request_id=call.request_id,
        max_seconds=call.max_seconds,
        a=text_messages(call.a),
        b=text_messages(call.b),
        saes=call.saes,
        strength=STRENGTHS[call.strength],
        false_discovery_rate=call.false_discovery_rate,
        top=call.top,
        seed=call.seed,
        include_special_tokens=call.include_special_tokens,
    )


def contrast_message(contrast: Contrast) -> pb.ContrastFeaturesResult:
    """The message of a result."""
    return pb.ContrastFeaturesResult(
        complete=contrast.complete,
        a=_count_message(contrast.a),
        b=_count_message(contrast.b),
        tested=contrast.tested,
        found=contrast.found,
        confirmed=contrast.confirmed,
        features=map(_feature_message, contrast.features),
    )


def contrast_event(message: pb.ContrastFeaturesResponse) -> Progress | Contrast:
    """One message of the stream."""
    if message.HasField("progress"):
        return progress_of(message.progress)
    result = message.result
    return Contrast(
        complete=result.complete,
        a=_count_of(result.a),
        b=_count_of(result.b),
        tested=result.tested,
        found=result.found,
        confirmed=result.confirmed,
        features=tuple(map(_feature_of, result.features)),
    )


def _feature_message(found: ContrastedFeature) -> pb.ContrastedFeature:
    return pb.ContrastedFeature(
        feature=feature_message(found.feature),
        label=label_message(found.label),
        more_in_a=found.more_in == "a",
        discovery=_difference_message(found.discovery),
        q_value=found.q_value,
        held_out=_difference_message(found.held_out),
        held_out_q_value=found.held_out_q_value,
        confirmed=found.confirmed,
    )


def _feature_of(message: pb.ContrastedFeature) -> ContrastedFeature:
    return ContrastedFeature(
        feature=FeatureRef(message.feature.sae, message.feature.index),
        label=label_of(message.label) if message.HasField("label") else None,
        more_in="a" if message.more_in_a else "b",
        discovery=_difference_of(message.discovery),
        q_value=message.q_value,
        held_out=_difference_of(message.held_out),
        held_out_q_value=message.held_out_q_value,
        confirmed=message.confirmed,
    )


def _difference_message(difference: Difference) -> pb.SetDifference:
    return pb.SetDifference(
        a=_use_message(difference.a),
        b=_use_message(difference.b),
        cohens_h=difference.cohens_h,
        cliffs_delta=difference.cliffs_delta,
        p_value=difference.p_value,
    )


def _difference_of(message: pb.SetDifference) -> Difference:
    return Difference(
        a=_use_of(message.a),
        b=_use_of(message.b),
        cohens_h=message.cohens_h,
        cliffs_delta=message.cliffs_delta,
        p_value=message.p_value,
    )


def _use_message(use: FeatureUse) -> pb.FeatureUseInTexts:
    return pb.FeatureUseInTexts(
        text_rate=use.text_rate,
        token_rate=use.token_rate,
        mean_peak=use.mean_peak,
        mean_activation=use.mean_activation,
    )


def _use_of(message: pb.FeatureUseInTexts) -> FeatureUse:
    return FeatureUse(message.text_rate, message.token_rate, message.mean_peak, message.mean_activation)


def _count_message(count: TextCount) -> pb.TextCount:
    return pb.TextCount(
        discovery_texts=count.discovery_texts, held_out_texts=count.held_out_texts, tokens=count.tokens
    )


def _count_of(message: pb.TextCount) -> TextCount:
    return TextCount(message.discovery_texts, message.held_out_texts, message.tokens)
