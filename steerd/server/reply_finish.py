"""Why a generation ended and what it used -> wire."""

from __future__ import annotations

from steerd.engine.events import BaselineOutcome, FinishedEvent
from steerd.engine.request import FinishReason
from steerd.pb.v1 import generation_service_pb2 as pb

FINISH_REASONS = {
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
    FinishReason.STOP_SEQUENCE: pb.FINISH_REASON_STOP_SEQUENCE,
    FinishReason.FEATURE: pb.FINISH_REASON_FEATURE,
}


def usage_of(finished: FinishedEvent | BaselineOutcome) -> pb.Usage:
    """The tokens that it used."""
    return pb.Usage(
        prompt_tokens=finished.prompt_tokens,
        generated_tokens=finished.generated_tokens,
        cached_prompt_tokens=finished.cached_prompt_tokens,
    )
