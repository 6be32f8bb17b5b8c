"""SearchFeatures, NearestFeatures, SearchByTexts: calls to their messages, answers to theirs and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from steerd.engine.study import Progress
from steerd.intervention_wire import feature_message
from steerd.pb.v1 import feature_service_pb2 as pb
from steerd.steering.intervention import FeatureRef
from steerd.studies.feature_matches import FeatureMatches, Side, TextMatches
from steerd.study_wire.feature_description import match_message, match_of
from steerd.study_wire.study_text import StudyText, progress_of, text_messages

SIDES: dict[Side, pb.FeatureSide.ValueType] = {
    "decoder": pb.FEATURE_SIDE_DECODER,
    "encoder": pb.FEATURE_SIDE_ENCODER,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class NearestCall:
    """One NearestFeatures call: near a feature or a direction [d_model], in the SAEs named, or in all."""

    near: FeatureRef | Sequence[float]
    saes: tuple[str, ...] = ()
    side: Side = "decoder"
    limit: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class TextSearchCall:
    """One SearchByTexts call, in the SAEs named, or in all."""

    fires_on: tuple[StudyText, ...]
    not_on: tuple[StudyText, ...] = ()
    saes: tuple[str, ...] = ()
    limit: int | None = None
    include_special_tokens: bool = False
    request_id: str = ""
    max_seconds: float = 0.0


def nearest_request(call: NearestCall) -> pb.NearestFeaturesRequest:
    """The message of a call."""
    message = pb.NearestFeaturesRequest(saes=call.saes, side=SIDES[call.side], limit=call.limit)
    if isinstance(call.near, FeatureRef):
        message.feature.CopyFrom(feature_message(call.near))
    else:
        message.vector.values.extend(call.near)
    return message


def text_search_request(call: TextSearchCall) -> pb.SearchByTextsRequest:
    """The message of a call."""
    return pb.SearchByTextsRequest(
        request_id=call.request_id,
        max_seconds=call.max_seconds,
        fires_on=text_messages(call.fires_on),
        not_on=text_messages(call.not_on),
        saes=call.saes,
        limit=call.limit,
        include_special_tokens=call.include_special_tokens,
    )


def words_message(matches: FeatureMatches) -> pb.SearchFeaturesResponse:
    """What words found."""
    return pb.SearchFeaturesResponse(features=map(match_message, matches.features), matches=matches.found)


def words_of(message: pb.SearchFeaturesResponse) -> FeatureMatches:
    """What words found, as a message tells it."""
    return FeatureMatches(tuple(map(match_of, message.features)), message.matches)


def nearest_message(matches: FeatureMatches) -> pb.NearestFeaturesResponse:
    """What is near."""
    features = map(match_message, matches.features)
    return pb.NearestFeaturesResponse(features=features, searched=matches.found)


def nearest_of(message: pb.NearestFeaturesResponse) -> FeatureMatches:
    """What is near, as a message tells it."""
    return FeatureMatches(tuple(map(match_of, message.features)), message.searched)


def text_matches_message(matches: TextMatches) -> pb.SearchByTextsResult:
    """What fires on texts."""
    return pb.SearchByTextsResult(
        complete=matches.complete, features=map(match_message, matches.features), texts=matches.texts
    )


def text_search_event(message: pb.SearchByTextsResponse) -> Progress | TextMatches:
    """One message of the stream."""
    if message.WhichOneof("event") == "progress":
        return progress_of(message.progress)
    result = message.result
    return TextMatches(result.complete, tuple(map(match_of, result.features)), result.texts)
