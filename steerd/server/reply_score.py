"""Scored continuations -> wire."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from steerd.engine.events import ScoredEvent
from steerd.engine.request import GenerationRequest
from steerd.pb.v1 import generation_service_pb2 as pb
from steerd.receipt_wire import receipt_message
from steerd.server.reply_reading import reading_message
from steerd.steering.receipt import NO_RECEIPT, Receipt


@dataclass(frozen=True, slots=True)
class Scored:
    """What the engine scored of one request, in order, and what its steering did."""

    chunks: Sequence[ScoredEvent] = ()
    receipt: Receipt = NO_RECEIPT

    @property
    def logprobs(self) -> list[float]:
        """Those of all scored tokens."""
        return [value for chunk in self.chunks for value in chunk.logprobs]


def continuation_score(
    request: GenerationRequest, scored: Scored, baseline: Scored, tokenizer: PreTrainedTokenizerBase
) -> pb.ContinuationScore:
    """The scores of one continuation; `baseline` is empty when none was wanted."""
    logprobs, unsteered = scored.logprobs, baseline.logprobs
    return pb.ContinuationScore(
        token_ids=request.continuation,
        token_texts=tokenizer.batch_decode([[token_id] for token_id in request.continuation]),
        logprobs=logprobs,
        likeliest=[value for chunk in scored.chunks for value in chunk.likeliest],
        total_logprob=math.fsum(logprobs),
        baseline_logprobs=unsteered,
        baseline_total_logprob=math.fsum(unsteered),
        readings=[reading_message(reading) for chunk in scored.chunks for reading in chunk.readings],
        receipt=receipt_message(scored.receipt, request.plan_hash),
    )
