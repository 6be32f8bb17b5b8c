"""The progress of one request, owned by the engine thread."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from steerd.engine.events import (
    FailedEvent,
    FinishedEvent,
    PromptEvent,
    ScoredEvent,
    StartedEvent,
    Timings,
    TokenEvent,
    TokenReading,
)
from steerd.engine.faults import Fault, is_out_of_memory
from steerd.engine.request import FinishReason
from steerd.engine.scored import Scores
from steerd.engine.tally import Tallies
from steerd.engine.triggers import Triggers
from steerd.engine.waiting_line import Submission
from steerd.steering.receipt import SwitchReceipt
from steerd.steering.request_wishes import RequestWishes
from steerd.steering.row_span import RowSpan


class RunningRequest:
    """A request that has memory: its tokens so far, its readings so far, and when it is over."""

    def __init__(
        self,
        submission: Submission,
        wishes: RequestWishes,
        tallies: Tallies,
        *,
        eos_token_ids: frozenset[int],
        stops_at: Callable[[int], bool] | None,
        cached_tokens: int = 0,
    ) -> None:
        """`stops_at` is told each generated id, and says when a stop string has appeared; the prompt's first
        `cached_tokens` tokens are not run."""
        self.submission = submission
        self.request = submission.request
        self.deliver = submission.deliver
        self.wishes = wishes
        self._tallies = tallies
        tallies.start(wishes)
        self.submitted = submission.submitted
        self.started = time.monotonic()
        self.first_token: float | None = None
        self.token_ids = list(submission.request.given_ids)
        self._num_given = len(self.token_ids)
        self.triggers = Triggers(wishes.triggers)
        self.switched: SwitchReceipt | None = None
        self._eos_token_ids = eos_token_ids
        self._stops_at = stops_at
        self._cached_tokens = cached_tokens

    @property
    def num_generated(self) -> int:
        """Tokens generated so far."""
        return len(self.token_ids) - self._num_given

    def start(self) -> None:
        """Tell the client that the request is running."""
        self.deliver(StartedEvent(queue_seconds=self.started - self.submitted))

    def span(self, first_row: int, first_position: int, num_rows: int) -> RowSpan:
        """Its rows in a step."""
        return RowSpan(
            request_id=self.request.id,
            first_row=first_row,
            first_position=first_position,
            token_ids=self.token_ids[first_position : first_position + num_rows],
        )

    def num_given_rows(self, span: RowSpan) -> int:
        """How many rows of the span are of ids that were given, not generated."""
        return min(max(self._num_given - span.first_position, 0), len(span.token_ids))

    def tell_prompt(self, readings: list[tuple[TokenReading, ...]]) -> None:
        """Send the readings of prompt rows that produce no token."""
        flat = tuple(reading for row in readings for reading in row)
        if flat:
            self.deliver(PromptEvent(readings=flat))

    def add_token(
        self, token_id: int, logprob: float, readings: tuple[TokenReading, ...]
    ) -> FinishReason | None:
        """Take and send a new token; the reason when it is the last one."""
        if self.first_token is None:
            self.first_token = time.monotonic()
        position = len(self.token_ids)
        self.token_ids.append(token_id)
        self.deliver(TokenEvent(token_id=token_id, position=position, logprob=logprob, readings=readings))
        if token_id in self._eos_token_ids:
            return FinishReason.STOP
        if self._stops_at is not None and self._stops_at(token_id):
            return FinishReason.STOP_SEQUENCE
        if self.num_generated >= self.request.sampling.max_new_tokens:
            return FinishReason.LENGTH
        return None

    def tell_scores(self, scores: Scores, readings: tuple[TokenReading, ...]) -> FinishReason | None:
        """Send what a step scored; the reason when that was the last of it."""
        self.deliver(
            ScoredEvent(
                first_position=scores.first_position,
                logprobs=scores.logprobs,
                likeliest=scores.likeliest,
                readings=readings,
            )
        )
        is_last = scores.first_position + len(scores.logprobs) > self._num_given
        return FinishReason.SCORED if is_last else None

    def finished(self, reason: FinishReason) -> FinishedEvent:
        """How it ended."""
        now = time.monotonic()
        first_token = now if self.first_token is None else self.first_token
        return FinishedEvent(
            reason=reason,
            prompt_tokens=len(self.request.prompt_ids),
            cached_prompt_tokens=self._cached_tokens,
            generated_tokens=self.num_generated,
            timings=Timings(
                queue_seconds=self.started - self.submitted,
                prefill_seconds=first_token - self.started,
                decode_seconds=now - first_token,
            ),
            features=self._tallies.uses(self.wishes),
            receipt=replace(
                self._tallies.receipt(self.wishes), fired=self.triggers.fired, switched=self.switched
            ),
            cancel_seconds=self.submission.since_cancel if reason is FinishReason.CANCELLED else None,
        )

    def failed(self, error: Exception) -> FailedEvent:
        """How it ended, by an error of a step."""
        if not is_out_of_memory(error):
            return FailedEvent(error)
        in_prefill = self.first_token is None
        return FailedEvent(error, Fault.NO_MEMORY_PREFILL if in_prefill else Fault.NO_MEMORY_DECODE)
