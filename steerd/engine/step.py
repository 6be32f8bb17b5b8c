"""One step of the engine: plan it, run it, tell everybody what it gave."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from steerd.engine.continuous_batching import ContinuousBatch, NewToken, PackedRows
from steerd.engine.events import (
    EngineObserver,
    FailedEvent,
    FiredEvent,
    Firing,
    LastEvent,
    StepReport,
    TokenReading,
)
from steerd.engine.faults import non_finite
from steerd.engine.readings import StepReadings
from steerd.engine.request import FinishReason
from steerd.engine.running_request import RunningRequest
from steerd.engine.running_requests import RunningRequests
from steerd.engine.sampler import Draw, sample
from steerd.engine.scored import ScoredRows, Scores, score, scored_rows
from steerd.engine.waiting_line import WaitingLine
from steerd.engine.watch_list import WatchList
from steerd.steering.row_span import RowSpan
from steerd.steering.step_plan import StepPlan, StepPlanner

_log = logging.getLogger(__name__)


class Step:
    """Runs the packed rows of the running requests. Used by the engine thread alone."""

    def __init__(
        self,
        batch: ContinuousBatch,
        planner: StepPlanner,
        running: RunningRequests,
        line: WaitingLine,
        observer: EngineObserver,
    ) -> None:
        self._batch = batch
        self._planner = planner
        self._running = running
        self._line = line
        self._observer = observer
        self._watch = WatchList()
        self._under_way: tuple[StepPlan, Sequence[RowSpan]] | None = None
        self._fired: dict[str, list[Firing]] = {}  # by id, in the step under way

    def watch(self, watch: WatchList) -> None:
        """Read this list on every row of the coming steps."""
        if watch is not self._watch:
            self._planner.watch(watch.refs)
            self._watch = watch

    def run(self, packed: Sequence[PackedRows]) -> None:
        """Run one step and tell its streams; when it raises, its requests fail and the next step can run."""
        started = time.monotonic()
        try:
            spans = self._spans(packed)
            plan = self._planner.plan(spans, self._running.wishes(), self._batch.padding)
            self._under_way = plan, spans
            planned = time.monotonic()
            scored = self._scored_rows(spans)
            rows_of_scores = [row for part in scored for row in part.rows]
            output = self._batch.run(rows_of_scores, program=self._planner.program)
            scores = dict(score(output.scored, scored))
            forwarded = time.monotonic()
            plan.settle()
            readings = StepReadings(plan)
        except Exception as error:
            _log.exception("a step of %d requests failed", len(packed))
            for rows in packed:
                self._running.fail(self._running[rows.request_id], error)
            return
        steering_seconds = (
            planned - started + time.monotonic() - forwarded + self._planner.take_hook_seconds()
        )
        given_rows = sum(self._running[span.request_id].num_given_rows(span) for span in spans)
        new_tokens = {
            token.request_id: token
            for token in output.new_tokens
            if token.request_id not in scores and not self._running[token.request_id].triggers.is_stopped
        }
        request_ids = tuple(self._client_id(span) for span in spans)
        self._running.tallies.add(readings)
        ended = self._tell(spans, new_tokens, scores, readings)
        self._observer.step_finished(
            StepReport(
                duration_seconds=time.monotonic() - started,
                prompt_tokens=given_rows,
                generated_tokens=len(new_tokens),
                batch_size=len(packed),
                running=len(self._running),
                waiting=len(self._line),
                kv_used_bytes=self._batch.cache.used_bytes,
                kv_total_bytes=self._batch.cache.total_bytes,
                request_ids=request_ids,
                first_rows=plan.layout.starts,
                first_positions=np.array([span.first_position for span in spans]),
                new_tokens={id: new_tokens[id].token_id for id in request_ids if id in new_tokens},
                monitored_tokens=readings.monitored_tokens(),
                sampled=readings.sampled(),
                watched=readings.watched(self._planner.watched_columns, self._watch),
                steering_seconds=steering_seconds,
            )
        )
        # Only now, so that a client whose stream has ended finds all of it in the metrics.
        for running, event in ended:
            self._running.end(running.submission, event)

    def sample(self, logits: Tensor, request_ids: Sequence[str]) -> tuple[Tensor, Tensor]:
        """The next tokens and their log-probabilities, each request by its own parameters."""
        self._see_triggers()
        running = [self._running[request_id] for request_id in request_ids]
        for row, request in zip(logits, running, strict=True):
            if (twins := request.submission.twins) is not None and not request.triggers.is_stopped:
                is_baseline = request.submission.steered is not None
                twins.compare(row, len(request.token_ids), is_baseline=is_baseline)
        draws = [Draw(request.request.sampling, len(request.token_ids)) for request in running]
        return sample(logits, draws)

    def _see_triggers(self) -> None:
        """After the forward, before anything is made of it: what fired on its rows."""
        self._fired = {}
        assert self._under_way is not None  # the batch samples only in the midst of `run`
        plan, spans = self._under_way
        bits = plan.bits()
        if bits is None:
            return
        for span in spans:
            triggers = self._running[span.request_id].triggers
            self._fired[span.request_id] = triggers.see(
                bits[span.rows.start : span.rows.stop], span.first_position
            )

    def _spans(self, packed: Sequence[PackedRows]) -> list[RowSpan]:
        spans, first_row = [], 0
        for rows in packed:
            running = self._running[rows.request_id]
            spans.append(running.span(first_row, rows.first_position, rows.num_rows))
            first_row += rows.num_rows
        return spans

    def _client_id(self, span: RowSpan) -> str:
        """The request's id; "" for a baseline."""
        is_baseline = self._running[span.request_id].submission.steered is not None
        return "" if is_baseline else span.request_id

    def _scored_rows(self, spans: Sequence[RowSpan]) -> list[ScoredRows]:
        found = [scored_rows(span, self._running[span.request_id].request) for span in spans]
        return [part for part in found if part is not None]

    def _tell(
        self,
        spans: Sequence[RowSpan],
        new_tokens: Mapping[str, NewToken],
        scores: Mapping[str, Scores],
        readings: StepReadings,
    ) -> list[tuple[RunningRequest, LastEvent]]:
        """Send what the step gave; returns the requests that it ended, freed, and their last events."""
        ended = []
        for span in spans:
            running = self._running[span.request_id]
            by_row = readings.rows(span, running.wishes)
            if span.request_id in scores:
                event = self._take_scores(running, scores[span.request_id], by_row)
            else:
                event = self._take_rows(running, span, new_tokens.get(span.request_id), by_row)
            if event is None:
                event = self._switch(running, span.first_position + len(span.token_ids))
            if event is not None:
                self._running.free(running)
                ended.append((running, event))
        return ended

    def _switch(self, running: RunningRequest, next_position: int) -> LastEvent | None:
        """Before its next row, but not in the prompt: let what a trigger switched to be what it wants."""
        if next_position < len(running.request.prompt_ids):
            return None
        switch = running.triggers.take_switch()
        if switch is None:
            return None
        try:
            self._running.switch(running, switch, next_position)
        except Exception as error:
            _log.exception("request %s cannot switch", running.request.id)
            return FailedEvent(error)
        return None

    def _take_scores(
        self, running: RunningRequest, scores: Scores, by_row: Mapping[int, tuple[TokenReading, ...]]
    ) -> LastEvent | None:
        if (event := self._tell_fired(running)) is not None:
            return event
        if not all(map(math.isfinite, scores.logprobs)):
            return FailedEvent(*non_finite(running.request))
        reason = running.tell_scores(scores, tuple(reading for row in by_row.values() for reading in row))
        return running.finished(reason) if reason is not None else None

    def _take_rows(
        self,
        running: RunningRequest,
        span: RowSpan,
        token: NewToken | None,
        by_row: dict[int, tuple[TokenReading, ...]],
    ) -> LastEvent | None:
        last = by_row.pop(span.rows[-1], ()) if token else ()
        running.tell_prompt(list(by_row.values()))
        if (event := self._tell_fired(running)) is not None:
            return event
        return self._take_token(running, token, last) if token else None

    def _tell_fired(self, running: RunningRequest) -> LastEvent | None:
        if fired := self._fired.get(running.request.id):
            running.deliver(FiredEvent(tuple(fired)))
        return running.finished(FinishReason.FEATURE) if running.triggers.is_stopped else None

    def _take_token(
        self, running: RunningRequest, token: NewToken, readings: tuple[TokenReading, ...]
    ) -> LastEvent | None:
        if not math.isfinite(token.logprob):
            return FailedEvent(*non_finite(running.request))
        is_first = running.first_token is None
        try:
            reason = running.add_token(token.token_id, token.logprob, readings)
        except Exception as error:  # its stop predicate, say: the others go on
            _log.exception("request %s failed", running.request.id)
            return FailedEvent(error)
        if is_first and running.first_token is not None and running.submission.steered is None:
            self._observer.first_token(running.request, running.first_token - running.submitted)
        return running.finished(reason) if reason is not None else None
