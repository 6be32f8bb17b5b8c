"""The requests that run: what each holds until it ends, and how its end is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from steerd.engine.continuous_batching import ContinuousBatch
from steerd.engine.events import EngineObserver, FailedEvent, LastEvent
from steerd.engine.request import FinishReason
from steerd.engine.running_request import RunningRequest
from steerd.engine.tally import Tallies
from steerd.engine.waiting_line import Submission, WaitingLine
from steerd.steering.receipt import SwitchReceipt
from steerd.steering.request_wishes import RequestWishes
from steerd.steering.step_plan import StepPlanner
from steerd.steering.trigger import Switch


class RunningRequests:
    """By id, the requests that have memory in the batch and columns in the planner's tables."""

    def __init__(
        self, batch: ContinuousBatch, planner: StepPlanner, line: WaitingLine, observer: EngineObserver
    ) -> None:
        self._batch = batch
        self._planner = planner
        self._line = line
        self._observer = observer
        self._by_id: dict[str, RunningRequest] = {}
        self.tallies = Tallies()

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._by_id

    def __getitem__(self, request_id: str) -> RunningRequest:
        return self._by_id[request_id]

    def wishes(self) -> Mapping[str, RequestWishes]:
        """What each wants of the SAEs, by id."""
        return {request_id: running.wishes for request_id, running in self._by_id.items()}

    def add(self, running: RunningRequest) -> None:
        """Take one in whose memory and columns are there."""
        self._by_id[running.request.id] = running

    def switch(self, running: RunningRequest, switch: Switch, first_position: int) -> None:
        """From a position on, let a switch's interventions be what one wants."""
        request = running.request
        running.wishes = self._planner.switch(
            running.wishes,
            request.steering.switched(switch),
            prompt_ids=request.prompt_ids,
            first_position=first_position,
            numbers=request.steering.numbers_after(switch),
        )
        running.switched = SwitchReceipt(switch.preset, first_position)

    def free(self, running: RunningRequest) -> None:
        """Give back all that one holds; its end is not told yet."""
        del self._by_id[running.request.id]
        self._batch.remove(running.request.id)
        self._planner.release(running.wishes)

    def finish(self, running: RunningRequest, reason: FinishReason) -> None:
        """Free one and tell its client that it is over."""
        self.free(running)
        self.end(running.submission, running.finished(reason))

    def fail(self, running: RunningRequest, error: Exception) -> None:
        """Free one and tell its client why it cannot go on."""
        self.free(running)
        self.end(running.submission, running.failed(error))

    def end(self, submission: Submission, event: LastEvent) -> None:
        """Let the id be used again, then say the last word: who hears it may use the id at once."""
        if isinstance(event, FailedEvent):
            event = replace(event, seconds=submission.seconds)
        if submission.steered is None:  # a baseline is no request of a client
            self._observer.request_finished(submission.request, event)
        self._line.end(submission)
        submission.deliver(event)
        if isinstance(event, FailedEvent):
            self._line.cancel(submission.steered or submission)  # of the two, the one that is left

    def abandon(self, error: Exception) -> None:
        """Tell all that run that nothing follows; memory is not given back any more."""
        for running in self._by_id.values():
            self.end(running.submission, FailedEvent(error))
        self._by_id.clear()
