"""RankOutputs: the call to its message, and the server's answers to theirs and back."""

from __future__ import annotations

from dataclasses import dataclass

from steerd.engine.study import Progress
from steerd.intervention_wire import feature_message
from steerd.pb.v1 import feature_service_pb2 as pb
from steerd.steering.intervention import FeatureRef
from steerd.studies.output_table import OutputTable, RankedOutput
from steerd.study_wire.label import label_message, label_of
from steerd.study_wire.study_text import progress_of


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputsCall:
    """One RankOutputs call: features, or all live ones of SAEs. None stands for the server's default."""

    features: tuple[FeatureRef, ...] = ()
    saes: tuple[str, ...] = ()
    top: int | None = None
    request_id: str = ""
    max_seconds: float = 0.0


def outputs_request(call: OutputsCall) -> pb.RankOutputsRequest:
    """The message of a call."""
    return pb.RankOutputsRequest(
        request_id=call.request_id,
        max_seconds=call.max_seconds,
        features=[feature_message(feature) for feature in call.features],
        saes=call.saes,
        top=call.top,
    )


def outputs_message(table: OutputTable) -> pb.RankOutputsResult:
    """The message of a result."""
    return pb.RankOutputsResult(
        complete=table.complete,
        scored=table.scored,
        features=[
            pb.RankedOutput(
                feature=feature_message(found.feature),
                label=label_message(found.label),
                score=found.score,
                promoted_ids=found.promoted,
                promoted_texts=found.promoted_texts,
            )
            for found in table.features
        ],
    )


def outputs_event(message: pb.RankOutputsResponse) -> Progress | OutputTable:
    """One message of the stream."""
    if message.WhichOneof("event") == "progress":
        return progress_of(message.progress)
    result = message.result
    return OutputTable(
        complete=result.complete,
        scored=result.scored,
        features=tuple(map(_ranked, result.features)),
    )


def _ranked(message: pb.RankedOutput) -> RankedOutput:
    return RankedOutput(
        feature=FeatureRef(message.feature.sae, message.feature.index),
        label=label_of(message.label) if message.HasField("label") else None,
        score=message.score,
        promoted=tuple(message.promoted_ids),
        promoted_texts=tuple(message.promoted_texts),
    )
