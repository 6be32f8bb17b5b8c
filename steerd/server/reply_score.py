"""Scored continuations -> wire."""

from __future__ import annotations

import math
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from steerd.engine.events import ScoredEvent
from steerd.engine.request import GenerationRequest
from steerd.pb.v1 import generation_service_pb2 as pb

Chunks = Sequence[ScoredEvent]
"""What the engine scored of one request, in order."""


def continuation_score(
    request: GenerationRequest, scored: Chunks, baseline: Chunks, tokenizer: PreTrainedTokenizerBase
) -> pb.ContinuationScore:
    """The scores of one continuation; `baseline` is empty when none was wanted."""
    logprobs, unsteered = _logprobs(scored), _logprobs(baseline)
    message = pb.ContinuationScore(
        token_ids=request.continuation,
        token_texts=tokenizer.batch_decode([[token_id] for token_id in request.continuation]),
        logprobs=logprobs,
        likeliest=[value for chunk in scored for value in chunk.likeliest],
        total_logprob=math.fsum(logprobs),
        baseline_logprobs=unsteered,
        baseline_total_logprob=math.fsum(unsteered),
    )
    for reading in (reading for chunk in scored for reading in chunk.readings):
        message.readings.add(
            position=reading.position, sae=reading.sae, features=reading.features, values=reading.values
        )
    return message


def _logprobs(chunks: Chunks) -> list[float]:
    return [value for chunk in chunks for value in chunk.logprobs]
