"""The unsteered baseline of a request -> wire."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from steerd.engine.events import BaselineOutcome, DivergenceEvent, TokenEvent
from steerd.host.text import IncrementalDecoder
from steerd.pb.v1 import generation_service_pb2 as pb
from steerd.server.reply_finish import FINISH_REASONS, usage_of
from steerd.server.stop_text import StopText


class BaselineWriter:
    """Adds what the baseline gave to the deltas of its request's stream."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, prompt_ids: Sequence[int], stop: Sequence[str]
    ) -> None:
        self._decoder = IncrementalDecoder(tokenizer, prompt_ids)
        self._stop_text = StopText(stop)

    def add_token(self, delta: pb.Delta, token: TokenEvent) -> None:
        """One token more."""
        text = self._stop_text.push(self._decoder.push(token.token_id))
        message = delta.baseline
        message.text += text
        message.token_texts.append(text)
        message.token_ids.append(token.token_id)
        message.positions.append(token.position)
        message.logprobs.append(token.logprob)

    def add_divergence(self, delta: pb.Delta, divergence: DivergenceEvent) -> None:
        """How far the two are apart at one position."""
        delta.baseline.kl_positions.append(divergence.position)
        delta.baseline.kl.append(divergence.kl)

    def end(self, delta: pb.Delta) -> None:
        """The text that was held back."""
        rest = self._stop_text.push(self._decoder.flush()) + self._stop_text.flush()
        if rest:
            delta.baseline.text += rest


def baseline_summary(outcome: BaselineOutcome) -> pb.BaselineSummary:
    """How it ended."""
    return pb.BaselineSummary(
        finish_reason=FINISH_REASONS[outcome.reason],
        usage=usage_of(outcome),
        first_diverging_position=outcome.first_diverging_position,
        mean_kl=outcome.mean_kl,
    )
