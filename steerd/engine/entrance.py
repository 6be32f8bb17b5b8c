"""Who gets in: whether a request could ever fit in the memory, and how the first in the line begins."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from steerd.config import EngineConfig
from steerd.engine.continuous_batching import ContinuousBatch
from steerd.engine.events import FailedEvent
from steerd.engine.faults import Fault, is_out_of_memory
from steerd.engine.prefix_pages import NO_PAGES, PromptPages, prompt_pages
from steerd.engine.request import GenerationRequest
from steerd.engine.running_request import RunningRequest
from steerd.engine.running_requests import RunningRequests
from steerd.engine.waiting_line import Submission, WaitingLine
from steerd.errors import FieldViolation, InvalidRequest
from steerd.steering.loaded_saes import LoadedSaes
from steerd.steering.request_wishes import RequestWishes
from steerd.steering.step_plan import StepPlanner

_log = logging.getLogger(__name__)


class Entrance:
    """Takes requests from the line into the batch. `check_fits` is for any thread, `admit` the engine's."""

    def __init__(
        self,
        batch: ContinuousBatch,
        planner: StepPlanner,
        running: RunningRequests,
        line: WaitingLine,
        config: EngineConfig,
        *,
        eos_token_ids: frozenset[int],
    ) -> None:
        self._batch = batch
        self._planner = planner
        self._running = running
        self._line = line
        self._config = config
        self._eos_token_ids = eos_token_ids

    @property
    def why_no_sharing(self) -> str:
        """Why prompts do not take over the keys and values of others that begin alike; empty when they do."""
        if not self._config.share_prefixes:
            return "engine.share_prefixes is off"
        return self._batch.cache.why_copied

    def check_fits(self, request: GenerationRequest) -> None:
        """Raise InvalidRequest for a request that could never fit in the memory."""
        prompt, scored = len(request.prompt_ids), len(request.continuation)
        needed = len(request.given_ids) + request.num_new - 1  # the last new token is never fed back
        room = self._batch.cache.num_tokens
        if needed > room:
            field = "continuations" if scored else "sampling.max_new_tokens"
            others = f"{scored} scored ones" if scored else f"{request.num_new} new ones"
            description = (
                f"{prompt} prompt tokens and {others} need room for {needed}; there is room for {room}"
            )
            raise InvalidRequest([FieldViolation(field, description)])
        if request.baseline:
            self._check_pair(needed, room)

    def admit(self) -> None:
        """Start waiting requests in their order, as long as there is room for the first of them."""
        while len(self._running) < self._config.max_running_requests and (first := self._line.first()):
            together = first.together()
            if len(self._running) + len(together) > self._config.max_running_requests:
                return
            if not self._reserve([submission.request for submission in together]):
                return
            for submission in together:
                self._begin(submission)

    def _reserve(self, requests: Sequence[GenerationRequest]) -> bool:
        """Take the memory of all, or of none and say False."""
        for number, request in enumerate(requests):
            if not self._batch.admit(request.id, request.given_ids, request.num_new):
                for reserved in requests[:number]:
                    self._batch.remove(reserved.id)
                return False
        return True

    def _begin(self, submission: Submission) -> None:
        """Run a request that has memory; one that cannot begin fails alone."""
        request, wishes = submission.request, None
        try:
            stops_at = request.make_stop() if request.make_stop else None
            wishes = self._resolve(request, submission.saes)
            cached_tokens = self._batch.begin(request.id, self._pages(request, wishes))
        except Exception as error:
            _log.exception("request %s cannot begin", request.id)
            self._batch.remove(request.id)
            if wishes is not None:
                self._planner.release(wishes)
            if self._line.leave(submission):
                fault = Fault.NO_MEMORY_ADMISSION if is_out_of_memory(error) else None
                self._running.end(submission, FailedEvent(error, fault))
            return
        running = RunningRequest(
            submission,
            wishes,
            self._running.tallies,
            eos_token_ids=self._eos_token_ids,
            stops_at=stops_at,
            cached_tokens=cached_tokens,
        )
        self._running.add(running)
        if self._line.leave(submission):
            running.start()
        else:
            self._running.free(running)

    def _resolve(self, request: GenerationRequest, saes: LoadedSaes | None) -> RequestWishes:
        capture = request.capture
        return self._planner.resolve(
            prompt_ids=request.prompt_ids,
            steering=request.steering,
            watch=capture.watch,
            top_k=capture.top_k,
            top_k_saes=capture.top_k_saes,
            include_prompt=capture.include_prompt,
            after_edit=capture.after_edit,
            saes=saes,
        )

    def _pages(self, request: GenerationRequest, wishes: RequestWishes) -> PromptPages:
        if self.why_no_sharing:
            return NO_PAGES
        return prompt_pages(request, wishes, wishes.saes.identities, self._config.page_size)

    def _check_pair(self, needed: int, room: int) -> None:
        """A request and its baseline run together or not at all."""
        if self._config.max_running_requests < 2:
            description = "takes the place of two requests; the server runs one at a time"
            raise InvalidRequest([FieldViolation("baseline", description)])
        page = self._config.page_size
        both = 2 * -(-needed // page) * page
        if both > room:
            description = f"doubles the room that is needed, to {both} tokens; there is room for {room}"
            raise InvalidRequest([FieldViolation("baseline", description)])
