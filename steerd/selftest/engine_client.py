"""The same questions to an engine, some of them at once."""

from __future__ import annotations

import queue
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from steerd.engine.engine import Engine
from steerd.engine.events import (
    FailedEvent,
    FinishedEvent,
    FiredEvent,
    ScoredEvent,
    StreamEvent,
    TokenEvent,
)
from steerd.engine.request import GenerationRequest
from steerd.engine.study import Study, StudyEnded, StudyEvent, StudyFailed
from steerd.errors import Unavailable
from steerd.selftest.probes import Probe
from steerd.steering.receipt import Receipt

_TIMEOUT_SECONDS = 300.0  # for the next event of a request or a study

E = TypeVar("E")


@dataclass(frozen=True, slots=True)
class Generated:
    """What an engine went on with from a prompt, and how likely each token was: [tokens], float64."""

    token_ids: tuple[int, ...]
    logprobs: Tensor
    receipt: Receipt


@dataclass(frozen=True, slots=True)
class Scored:
    """The log-probabilities [continuation] of a continuation, float64, fewer where a trigger ended it; the
    names of triggers and positions where they fired, and the receipt."""

    logprobs: Tensor
    fired: frozenset[tuple[str, int]]
    receipt: Receipt


class EngineClient:
    """Asks a started engine, at most `at_once` requests together, in the order in which they are given."""

    def __init__(self, engine: Engine, at_once: int) -> None:
        self._engine = engine
        self._at_once = at_once
        self.tokens_taken_over = 0  # prompt tokens that did not run, as an earlier request had left theirs

    def score(self, probes: Sequence[Probe]) -> list[Scored]:
        """How likely each probe's continuation is.

        Raises what a request failed with, Unavailable when the engine gives no answer.
        """
        return [_scored(events) for events in self._run([probe.to_score() for probe in probes])]

    def generate(self, probes: Sequence[Probe], num_new: int) -> list[Generated]:
        """What it goes on with from each probe's prompt, at most `num_new` tokens. Raises as `score` does."""
        streams = self._run([probe.to_generate(num_new) for probe in probes])
        tokens = [[event for event in events if isinstance(event, TokenEvent)] for events in streams]
        return [
            Generated(
                tuple(token.token_id for token in of),
                _tensor([token.logprob for token in of]),
                _receipt(events),
            )
            for of, events in zip(tokens, streams, strict=True)
        ]

    def study(self, studies: Sequence[Study[Tensor]]) -> list[Tensor]:
        """The result of each study, one after the other. Raises as `score` does."""
        return [self._studied(study) for study in studies]

    def _studied(self, study: Study[Tensor]) -> Tensor:
        events = queue.SimpleQueue[StudyEvent]()
        self._engine.study(study, events.put)
        while True:
            match _next(events):
                case StudyEnded(result):
                    return result  # type: ignore[no-any-return]  # of the study's own type
                case StudyFailed(error):
                    raise error

    def _run(self, requests: Sequence[GenerationRequest]) -> list[list[StreamEvent]]:
        """The events of each request."""
        streams: list[list[StreamEvent]] = []
        for first in range(0, len(requests), self._at_once):
            together = [
                (request, queue.SimpleQueue[StreamEvent]())
                for request in requests[first : first + self._at_once]
            ]
            self._engine.submit_all([(request, events.put) for request, events in together])
            streams += [self._to_the_end(events) for _, events in together]
        return streams

    def _to_the_end(self, events: queue.SimpleQueue[StreamEvent]) -> list[StreamEvent]:
        found: list[StreamEvent] = []
        while not (found and isinstance(found[-1], FinishedEvent)):
            event = _next(events)
            if isinstance(event, FailedEvent):
                raise event.error
            if isinstance(event, FinishedEvent):
                self.tokens_taken_over += event.cached_prompt_tokens
            found.append(event)
        return found


def _next(events: queue.SimpleQueue[E]) -> E:
    try:
        return events.get(timeout=_TIMEOUT_SECONDS)
    except queue.Empty:
        message = f"the engine gave no answer for {_TIMEOUT_SECONDS:g} s"
        raise Unavailable(message, reason="ENGINE_SILENT") from None


def _scored(events: Sequence[StreamEvent]) -> Scored:
    logprobs = [value for event in events if isinstance(event, ScoredEvent) for value in event.logprobs]
    firings = [firing for event in events if isinstance(event, FiredEvent) for firing in event.firings]
    fired = frozenset((firing.trigger, firing.position) for firing in firings)
    return Scored(_tensor(logprobs), fired, _receipt(events))


def _receipt(events: Sequence[StreamEvent]) -> Receipt:
    last = events[-1]
    assert isinstance(last, FinishedEvent), "a stream is read to its end"
    return last.receipt


def _tensor(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
