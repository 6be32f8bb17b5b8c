"""The engine: one thread that owns the host, the cache and every running request."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from steerd.config import EngineConfig, WatchedFeature
from steerd.engine.continuous_batching import ContinuousBatch, NewToken, PackedRows
from steerd.engine.events import EngineObserver, FailedEvent, LastEvent, StepReport, TokenReading
from steerd.engine.host_check import check_packed_steps
from steerd.engine.readings import StepReadings
from steerd.engine.request import FinishReason, GenerationRequest
from steerd.engine.running_request import RunningRequest
from steerd.engine.sampler import Draw, sample
from steerd.engine.waiting_line import Deliver, WaitingLine, WaitingRequest
from steerd.errors import FieldViolation, InvalidRequest, Unavailable
from steerd.host.host_model import HostModel
from steerd.steering.intervention import FeatureRef
from steerd.steering.loaded_saes import LoadedSaes
from steerd.steering.request_wishes import RequestWishes
from steerd.steering.row_span import RowSpan
from steerd.steering.step_plan import StepPlan, StepPlanner

logger = logging.getLogger(__name__)


class Engine:
    """Runs requests together, a step at a time, each with its own steering, readings and sampling.

    `submit` and `cancel` may be called from any thread. Events are delivered on the engine thread through
    each request's `deliver`, which must not block; the engine never waits for a client.
    """

    def __init__(
        self,
        host: HostModel,
        saes: LoadedSaes,
        config: EngineConfig,
        observer: EngineObserver,
        watch: Sequence[WatchedFeature] = (),
        sample_every: int = 0,
    ) -> None:
        """Take over the host; HostError when it cannot be batched.

        Each token reads `watch`; each `sample_every`-th is encoded whole (0: none).
        """
        check_packed_steps(host)
        self._host = host
        self._config = config
        self._observer = observer
        self._watch = tuple((FeatureRef(feature.sae, feature.index), feature.threshold) for feature in watch)
        self._planner = StepPlanner(host, saes, [ref for ref, _ in self._watch], sample_every)
        self._batch = ContinuousBatch(
            host,
            self._sample,
            kv_cache_gib=config.kv_cache_gib,
            max_batch_tokens=config.max_batch_tokens,
            max_running_requests=config.max_running_requests,
            page_size=config.page_size,
        )
        self._running: dict[str, RunningRequest] = {}  # the engine thread's own
        self._line = WaitingLine(
            max_running=config.max_running_requests, max_waiting=config.max_waiting_requests
        )
        self._heartbeat = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="steerd-engine", daemon=True)

    @property
    def heartbeat(self) -> float:
        """time.monotonic() of the last turn of the loop; now, while there is nothing to do."""
        return time.monotonic() if self._line.is_idle else self._heartbeat

    @property
    def is_alive(self) -> bool:
        """Whether the engine thread runs."""
        return self._thread.is_alive()

    @property
    def running(self) -> int:
        """Requests that have memory."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Requests in the waiting line."""
        return len(self._line)

    def start(self) -> None:
        """Start the engine thread."""
        self._thread.start()

    def submit(self, request: GenerationRequest, deliver: Deliver) -> None:
        """Put a request in the waiting line.

        Raises Overloaded when the line is full, AlreadyExists for an id in use, Unavailable when draining or
        stopped, InvalidRequest for a request that could never fit in the memory.
        """
        self._check_fits(request)
        if self._line.is_idle:
            self._heartbeat = time.monotonic()  # the last turn may have been long ago
        self._line.join(WaitingRequest(request, deliver))

    def cancel(self, request_id: str) -> None:
        """End a request before its next step; nothing happens when it is over already."""
        self._line.cancel(request_id)

    def drain(self, timeout_seconds: float) -> bool:
        """Refuse new requests and wait for those there are; False when some are left at the end."""
        return self._line.drain(timeout_seconds)

    def stop(self) -> None:
        """End the thread after its current step and detach the hooks; what still runs is Unavailable."""
        self._fail(self._line.close(), _stopped())
        if self._thread.is_alive():
            self._thread.join()
        self._planner.close()

    def _run(self) -> None:
        try:
            with torch.inference_mode():
                while self._line.wait_for_work(bool(self._running)):
                    self._turn()
        except Exception:
            logger.exception("the engine stopped")
        finally:
            self._fail([*self._line.close(), *self._running.values()], _stopped())
            self._running.clear()

    def _turn(self) -> None:
        self._heartbeat = time.monotonic()
        self._drop_cancelled()
        self._admit()
        packed = self._batch.pack()
        if packed:
            self._step(packed)

    def _drop_cancelled(self) -> None:
        dropped, cancelled = self._line.take_cancelled()
        for waiting in dropped:
            self._end(waiting, waiting.cancelled())
        for request_id in cancelled & self._running.keys():
            self._finish(self._running[request_id], FinishReason.CANCELLED)

    def _admit(self) -> None:
        """Start waiting requests in their order, as long as there is room for the first of them."""
        while len(self._running) < self._config.max_running_requests and (waiting := self._line.first()):
            request = waiting.request
            if not self._batch.admit(request.id, request.prompt_ids, request.sampling.max_new_tokens):
                return
            running = RunningRequest(waiting, self._resolve(request), self._host.eos_token_ids)
            self._running[request.id] = running
            if self._line.leave(waiting):
                running.start()
            else:
                self._free(running)

    def _resolve(self, request: GenerationRequest) -> RequestWishes:
        capture = request.capture
        return self._planner.resolve(
            prompt_length=len(request.prompt_ids),
            interventions=request.interventions,
            watch=capture.watch,
            top_k=capture.top_k,
            top_k_saes=capture.top_k_saes,
            include_prompt=capture.include_prompt,
        )

    def _step(self, packed: Sequence[PackedRows]) -> None:
        started = time.monotonic()
        try:
            spans = self._spans(packed)
            plan = self._planner.plan(spans, {id_: running.wishes for id_, running in self._running.items()})
            new_tokens = self._batch.run()
            readings = StepReadings(plan)
        except Exception as error:
            logger.exception("a step of %d requests failed", len(packed))
            for rows in packed:
                self._finish_failed(self._running[rows.request_id], error)
            return
        prompt_tokens = sum(self._running[span.request_id].num_prompt_rows(span) for span in spans)
        self._count(spans, plan, readings)
        ended = self._tell(spans, new_tokens, readings)
        self._observe(
            self._observer.step_finished,
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
            ),
        )
        # Only now, so that a client whose stream has ended finds all of it in the metrics.
        for running, event in ended:
            self._end(running, event)

    def _spans(self, packed: Sequence[PackedRows]) -> list[RowSpan]:
        spans, first_row = [], 0
        for rows in packed:
            running = self._running[rows.request_id]
            spans.append(running.span(first_row, rows.first_position, rows.num_rows))
            first_row += rows.num_rows
        return spans

    def _sample(self, logits: Tensor, request_ids: Sequence[str]) -> tuple[Tensor, Tensor]:
        running = [self._running[request_id] for request_id in request_ids]
        draws = [Draw(request.request.sampling, len(request.token_ids)) for request in running]
        return sample(logits, draws)

    def _count(self, spans: Sequence[RowSpan], plan: StepPlan, readings: StepReadings) -> None:
        for span in spans:
            self._running[span.request_id].tally.add(span, readings)
        for name, step in plan.by_sae.items():
            for edited in step.edited_rows:
                feature = FeatureRef(name, edited.feature)
                self._running[edited.request_id].tally.add_steered(feature, edited.num_rows)

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
                self._free(running)
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
            logger.exception("request %s failed", running.request.id)
            return FailedEvent(error)
        if is_first and running.first_token is not None:
            self._observe(
                self._observer.first_token, running.request, running.first_token - running.submitted
            )
        return running.finished(reason) if reason is not None else None

    def _finish(self, running: RunningRequest, reason: FinishReason) -> None:
        self._free(running)
        self._end(running, running.finished(reason))

    def _finish_failed(self, running: RunningRequest, error: Exception) -> None:
        self._free(running)
        self._fail([running], error)

    def _fail(self, requests: Sequence[WaitingRequest | RunningRequest], error: Exception) -> None:
        for request in requests:
            self._end(request, FailedEvent(error))

    def _free(self, running: RunningRequest) -> None:
        del self._running[running.request.id]
        self._batch.remove(running.request.id)
        self._planner.release(running.wishes)

    def _end(self, request: WaitingRequest | RunningRequest, event: LastEvent) -> None:
        """Let the id be used again, then say the last word: who hears it may use the id at once."""
        self._observe(self._observer.request_finished, request.request, event)
        self._line.end(request.request.id)
        request.deliver(event)

    def _observe(self, tell: Callable[..., None], *what: object) -> None:
        """Tell the observer; one that fails must not take the requests with it."""
        try:
            tell(*what)
        except Exception:
            logger.exception("the observer failed")

    def _check_fits(self, request: GenerationRequest) -> None:
        prompt, new = len(request.prompt_ids), request.sampling.max_new_tokens
        needed = prompt + new - 1  # the last new token is never fed back
        room = self._batch.cache.num_tokens
        if needed > room:
            description = (
                f"{prompt} prompt tokens and {new} new ones need room for {needed}; there is room for {room}"
            )
            raise InvalidRequest([FieldViolation("sampling.max_new_tokens", description)])


def _stopped() -> Unavailable:
    return Unavailable("the engine has stopped", reason="ENGINE_STOPPED")


def _not_finite(request: GenerationRequest) -> Exception:
    """A host's logits are finite, so steering too strong for it is the likely reason."""
    if not request.interventions:
        return RuntimeError(f"the host gave non-finite logits for request {request.id}")
    return InvalidRequest(
        [FieldViolation("interventions", "steered so strongly that the host's logits are no longer finite")]
    )
