"""One step of the engine: plan it, run it, tell everybody what it gave."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence

from torch import Tensor

from steerd.config import WatchedFeature
from steerd.engine.continuous_batching import ContinuousBatch, NewToken, PackedRows
from steerd.engine.events import EngineObserver, FailedEvent, LastEvent, StepReport, TokenReading
from steerd.engine.readings import StepReadings
from steerd.engine.request import GenerationRequest
from steerd.engine.running_request import RunningRequest
from steerd.engine.running_requests import RunningRequests
from steerd.engine.sampler import Draw, sample
from steerd.engine.waiting_line import WaitingLine
from steerd.errors import FieldViolation, InvalidRequest
from steerd.steering.intervention import FeatureRef
from steerd.steering.row_span import RowSpan
from steerd.steering.step_plan import StepPlanner

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
        watch: Sequence[WatchedFeature],
    ) -> None:
        """`watch` is what the planner reads on every row."""
        self._batch = batch
        self._planner = planner
        self._running = running
        self._line = line
        self._observer = observer
        self._watch = [(FeatureRef(feature.sae, feature.index), feature.threshold) for feature in watch]

    def run(self, packed: Sequence[PackedRows]) -> None:
        """Run one step and tell its streams; when it raises, its requests fail and the next step can run."""
        started = time.monotonic()
        try:
            spans = self._spans(packed)
            plan = self._planner.plan(spans, self._running.wishes())
            new_tokens = self._batch.run()
            readings = StepReadings(plan)
        except Exception as error:
            _log.exception("a step of %d requests failed", len(packed))
            for rows in packed:
                self._running.fail(self._running[rows.request_id], error)
            return
        prompt_tokens = sum(self._running[span.request_id].num_prompt_rows(span) for span in spans)
        self._running.tallies.add(readings)
        ended = self._tell(spans, new_tokens, readings)
        self._observer.step_finished(
            StepReport(
                duration_seconds=time.monotonic() - started,
                prompt_tokens=prompt_tokens,
                generated_tokens=len(new_tokens),
                batch_size=len(packed),
                running=len(self._running),
                waiting=len(self._line),
                kv_used_bytes=self._batch.cache.used_bytes,
                kv_total_bytes=self._batch.cache.total_bytes,
                monitored_tokens=readings.monitored_tokens(),
                active_features=readings.active_features(),
                steered_rows=plan.steered_rows(),
                watched=readings.watched(self._planner.watched_columns, self._watch),
            )
        )
        # Only now, so that a client whose stream has ended finds all of it in the metrics.
        for running, event in ended:
            self._running.end(running.submission, event)

    def sample(self, logits: Tensor, request_ids: Sequence[str]) -> tuple[Tensor, Tensor]:
        """The next tokens and their log-probabilities, each request by its own parameters."""
        running = [self._running[request_id] for request_id in request_ids]
        draws = [Draw(request.request.sampling, len(request.token_ids)) for request in running]
        return sample(logits, draws)

    def _spans(self, packed: Sequence[PackedRows]) -> list[RowSpan]:
        spans, first_row = [], 0
        for rows in packed:
            running = self._running[rows.request_id]
            spans.append(running.span(first_row, rows.first_position, rows.num_rows))
            first_row += rows.num_rows
        return spans

    def _tell(
        self, spans: Sequence[RowSpan], new_tokens: Sequence[NewToken], readings: StepReadings
    ) -> list[tuple[RunningRequest, LastEvent]]:
        """Send what the step gave; returns the requests that it ended, freed, and their last events."""
        tokens = {token.request_id: token for token in new_tokens}
        ended = []
        for span in spans:
            running = self._running[span.request_id]
            by_row = readings.rows(span, running.wishes)
            token = tokens.get(span.request_id)
            last = by_row.pop(span.rows[-1], ()) if token else ()
            running.tell_prompt(list(by_row.values()))
            event = self._take_token(running, token, last) if token else None
            if event is not None:
                self._running.free(running)
                ended.append((running, event))
        return ended

    def _take_token(
        self, running: RunningRequest, token: NewToken, readings: tuple[TokenReading, ...]
    ) -> LastEvent | None:
        if not math.isfinite(token.logprob):
            return FailedEvent(_not_finite(running.request))
        is_first = running.first_token is None
        try:
            reason = running.add_token(token.token_id, token.logprob, readings)
        except Exception as error:  # its stop predicate, say: the others go on
            _log.exception("request %s failed", running.request.id)
            return FailedEvent(error)
        if is_first and running.first_token is not None:
            self._observer.first_token(running.request, running.first_token - running.submitted)
        return running.finished(reason) if reason is not None else None


def _not_finite(request: GenerationRequest) -> Exception:
    """A host's logits are finite, so steering too strong for it is the likely reason."""
    if not request.interventions:
        return RuntimeError(f"the host gave non-finite logits for request {request.id}")
    return InvalidRequest(
        [FieldViolation("interventions", "steered so strongly that the host's logits are no longer finite")]
    )
