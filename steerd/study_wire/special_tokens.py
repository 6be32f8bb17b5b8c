"""FindSpecialTokenFeatures: the call to its message, and the server's answers to theirs and back."""

from __future__ import annotations

from dataclasses import dataclass

from steerd.engine.study import Progress
from steerd.intervention_wire import feature_message
from steerd.pb.v1 import feature_service_pb2 as pb
from steerd.steering.intervention import FeatureRef
from steerd.studies.special_token_table import FiringFeature, SpecialToken, SpecialTokenTable
from steerd.study_wire.label import label_message, label_of
from steerd.study_wire.study_text import StudyText, progress_of, text_messages


@dataclass(frozen=True, kw_only=True, slots=True)
class SpecialTokensCall:
    """One FindSpecialTokenFeatures call. What is None or empty stands for the server's default."""

    texts: tuple[StudyText, ...] = ()
    saes: tuple[str, ...] = ()
    top: int | None = None
    request_id: str = ""
    max_seconds: float = 0.0


def special_tokens_request(call: SpecialTokensCall) -> pb.FindSpecialTokenFeaturesRequest:
    """The message of a call."""
    return pb.FindSpecialTokenFeaturesRequest(
        request_id=call.request_id,
        max_seconds=call.max_seconds,
        texts=text_messages(call.texts),
        saes=call.saes,
        top=call.top,
    )


def table_message(table: SpecialTokenTable) -> pb.FindSpecialTokenFeaturesResult:
    """The message of a result."""
    return pb.FindSpecialTokenFeaturesResult(
        complete=table.complete,
        texts=table.texts,
        tokens=[
            pb.SpecialToken(
                id=token.token_id,
                text=token.token_text,
                texts=token.texts,
                features=[_feature_message(feature) for feature in token.features],
            )
            for token in table.tokens
        ],
    )


def special_tokens_event(message: pb.FindSpecialTokenFeaturesResponse) -> Progress | SpecialTokenTable:
    """One message of the stream."""
    if message.WhichOneof("event") == "progress":
        return progress_of(message.progress)
    result = message.result
    return SpecialTokenTable(
        complete=result.complete,
        texts=result.texts,
        tokens=tuple(
            SpecialToken(token.id, token.texts, tuple(map(_feature, token.features)), token.text)
            for token in result.tokens
        ),
    )


def _feature_message(feature: FiringFeature) -> pb.FiringFeature:
    return pb.FiringFeature(
        feature=feature_message(feature.feature),
        label=label_message(feature.label),
        mean_maximum=feature.mean_maximum,
        maximum=feature.maximum,
        text_share=feature.text_share,
        ordinary_mean_maximum=feature.ordinary_mean_maximum,
    )


def _feature(message: pb.FiringFeature) -> FiringFeature:
    return FiringFeature(
        feature=FeatureRef(message.feature.sae, message.feature.index),
        label=label_of(message.label) if message.HasField("label") else None,
        mean_maximum=message.mean_maximum,
        maximum=message.maximum,
        text_share=message.text_share,
        ordinary_mean_maximum=message.ordinary_mean_maximum,
    )
