"""Why a generation ended -> wire."""

from __future__ import annotations

from steerd.engine.request import FinishReason
from steerd.pb.v1 import generation_service_pb2 as pb

FINISH_REASONS = {
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
    FinishReason.STOP_SEQUENCE: pb.FINISH_REASON_STOP_SEQUENCE,
    FinishReason.FEATURE: pb.FINISH_REASON_FEATURE,
}
