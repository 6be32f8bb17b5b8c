"""Trace: the call to its message, and the server's answer to its own and back."""

from __future__ import annotations

from dataclasses import dataclass

from steerd.engine.study import Progress
from steerd.pb.v1 import feature_service_pb2 as pb
from steerd.steering.scope import PositionRange
from steerd.studies.trace_table import TracedFeature, TracedRow, TraceTable
from steerd.study_wire.label import label_message, label_of
from steerd.study_wire.logit_lens import position_messages
from steerd.study_wire.steered_text import (
    SteeredStudyText,
    applied_steering,
    applied_steering_message,
    steered_fields,
)
from steerd.study_wire.study_text import progress_of


@dataclass(frozen=True, kw_only=True, slots=True)
class TraceCall:
    """One Trace call. No SAEs: all; no positions: the last."""

    steered: SteeredStudyText
    saes: tuple[str, ...] = ()
    positions: tuple[PositionRange, ...] = ()
    top: int | None = None
    after_edit: bool = False
    request_id: str = ""
    max_seconds: float = 0.0


def trace_request(call: TraceCall) -> pb.TraceRequest:
    """The message of a call."""
    return pb.TraceRequest(
        request_id=call.request_id,
        max_seconds=call.max_seconds,
        saes=call.saes,
        positions=position_messages(call.positions),
        top_k=call.top,
        after_edit=call.after_edit,
        **steered_fields(call.steered),
    )


def trace_message(table: TraceTable) -> pb.TraceResult:
    """The message of a result."""
    return pb.TraceResult(
        complete=table.complete,
        steering=applied_steering_message(table.steering),
        token_ids=table.token_ids,
        token_texts=table.token_texts,
        rows=[_row_message(row) for row in table.rows],
    )


def trace_event(message: pb.TraceResponse) -> Progress | TraceTable:
    """One message of the stream."""
    if message.WhichOneof("event") == "progress":
        return progress_of(message.progress)
    result = message.result
    return TraceTable(
        token_ids=tuple(result.token_ids),
        token_texts=tuple(result.token_texts),
        rows=tuple(map(_row, result.rows)),
        steering=applied_steering(result.steering),
        complete=result.complete,
    )


def _row_message(row: TracedRow) -> pb.TracedRow:
    return pb.TracedRow(
        sae=row.sae,
        hook_point=row.hook_point,
        position=row.position,
        resid_norm=row.resid_norm,
        error_norm=row.error_norm,
        unexplained=row.unexplained,
        active=row.active,
        features=[
            pb.TracedFeature(
                index=feature.feature,
                activation=feature.activation,
                share=feature.share,
                label=label_message(feature.label),
            )
            for feature in row.features
        ],
    )


def _row(message: pb.TracedRow) -> TracedRow:
    return TracedRow(
        sae=message.sae,
        hook_point=message.hook_point,
        position=message.position,
        resid_norm=message.resid_norm,
        error_norm=message.error_norm,
        unexplained=message.unexplained,
        active=message.active,
        features=tuple(map(_feature, message.features)),
    )


def _feature(message: pb.TracedFeature) -> TracedFeature:
    label = label_of(message.label) if message.HasField("label") else None
    return TracedFeature(message.index, message.activation, message.share, label)
