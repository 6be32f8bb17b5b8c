"""A client of the engine for tests: submits requests and keeps what is delivered."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from steerd.engine.engine import Engine
from steerd.engine.events import (
    FailedEvent,
    FinishedEvent,
    FiredEvent,
    Firing,
    LastEvent,
    PromptEvent,
    ScoredEvent,
    StepReport,
    StreamEvent,
    TokenEvent,
    TokenReading,
)
from steerd.engine.request import GenerationRequest
from steerd.engine.waiting_line import Submission

TIMEOUT_SECONDS = 300.0


@dataclass
class Recorder:
    """The events of one request."""

    events: list[StreamEvent] = field(default_factory=list)
    submission: Submission = field(init=False)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def __call__(self, event: StreamEvent) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def wait_for_tokens(self, count: int) -> None:
        """Wait until so many tokens came, or the end."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.tokens) >= count or self.ended, TIMEOUT_SECONDS)

    def wait(self) -> FinishedEvent:
        """Wait for the end; raises what the request failed with."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.ended, TIMEOUT_SECONDS), "the request never ended"
        last = self.events[-1]
        if isinstance(last, FailedEvent):
            raise last.error
        assert isinstance(last, FinishedEvent)
        return last

    @property
    def ended(self) -> bool:
        return bool(self.events) and isinstance(self.events[-1], FinishedEvent | FailedEvent)

    @property
    def tokens(self) -> list[TokenEvent]:
        return [event for event in self.events if isinstance(event, TokenEvent)]

    @property
    def fired(self) -> list[Firing]:
        return [firing for event in self.events if isinstance(event, FiredEvent) for firing in event.firings]

    @property
    def token_ids(self) -> list[int]:
        return [event.token_id for event in self.tokens]

    @property
    def logprobs(self) -> list[float]:
        return [event.logprob for event in self.tokens]

    @property
    def scores(self) -> list[float]:
        """The log-probabilities of a scored text's tokens."""
        parts = [event.logprobs for event in self.events if isinstance(event, ScoredEvent)]
        return [logprob for part in parts for logprob in part]

    @property
    def readings(self) -> list[TokenReading]:
        found: list[TokenReading] = []
        for event in self.events:
            if isinstance(event, PromptEvent | TokenEvent | ScoredEvent):
                found.extend(event.readings)
        return found


class StepLog:
    """An observer that keeps everything."""

    def __init__(self) -> None:
        self.steps: list[StepReport] = []
        self.ended: list[tuple[GenerationRequest, LastEvent]] = []
        self.first_tokens: list[float] = []

    def step_finished(self, report: StepReport) -> None:
        self.steps.append(report)

    def request_finished(self, request: GenerationRequest, event: LastEvent) -> None:
        self.ended.append((request, event))

    def first_token(self, request: GenerationRequest, seconds: float) -> None:
        del request
        self.first_tokens.append(seconds)


class SteppedLog(StepLog):
    """A StepLog that lets the engine run only the steps it is given, so that a test can act between two.

    The first step runs by itself; the engine then waits here, inside the step's report.
    """

    def __init__(self) -> None:
        super().__init__()
        self._changed = threading.Condition()
        self._allowed = 1.0

    def step_finished(self, report: StepReport) -> None:
        with self._changed:
            super().step_finished(report)
            self._changed.notify_all()
            self._changed.wait_for(lambda: len(self.steps) < self._allowed, TIMEOUT_SECONDS)

    def wait_for_step(self) -> None:
        """Wait until the engine has run all that it may."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.steps) >= self._allowed, TIMEOUT_SECONDS)

    def step(self, count: int = 1) -> None:
        """Let it run so many steps more and wait until it has."""
        self.wait_for_step()
        with self._changed:
            self._allowed += count
            self._changed.notify_all()
        self.wait_for_step()

    def release(self) -> None:
        """Let it run from now on."""
        with self._changed:
            self._allowed = float("inf")
            self._changed.notify_all()


def submit(engine: Engine, request: GenerationRequest) -> Recorder:
    recorder = Recorder()
    recorder.submission = engine.submit(request, recorder)
    return recorder


def run_together(engine: Engine, requests: Sequence[GenerationRequest]) -> list[Recorder]:
    """Submit all, wait for all."""
    recorders = [submit(engine, request) for request in requests]
    for recorder in recorders:
        recorder.wait()
    return recorders
