"""The life of one Score call: its continuations run as a group, taken in whole or not at all."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from steerd.engine.events import FailedEvent, FinishedEvent, FiredEvent, Firing, ScoredEvent, StreamEvent
from steerd.engine.request import FinishReason, GenerationRequest
from steerd.engine.triggers import policy_stopped
from steerd.engine.waiting_line import Submission
from steerd.errors import Unavailable
from steerd.intervention_wire import applied_message, named_message
from steerd.pb.v1 import generation_service_pb2 as pb
from steerd.server.event_stream import EventStream
from steerd.server.parse_score import ScoreParser
from steerd.server.reply_score import Scored, continuation_score
from steerd.server.served import Serving
from steerd.steering.loaded_saes import LoadedSaes
from steerd.steering.steering import Steering

_log = logging.getLogger(__name__)


class GroupEngine(Protocol):
    """What scoring needs of the engine. Both may be called from any thread."""

    def submit_all(
        self,
        requests: Sequence[tuple[GenerationRequest, Callable[[StreamEvent], None]]],
        saes: LoadedSaes | None = None,
    ) -> list[Submission]:
        """Take in all of these requests for these SAEs, or none.

        Raises Overloaded, AlreadyExists, Unavailable or InvalidRequest.
        """

    def cancel(self, submission: Submission) -> None:
        """End a request; does nothing when it has ended."""


class Scoring:
    """Scores the continuations of one call at a time; any number of calls may be under way."""

    def __init__(self, engine: GroupEngine, serving: Serving) -> None:
        self._engine = engine
        self._serving = serving

    async def score(
        self, message: pb.ScoreRequest, request_id: str, traceparent: str | None = None
    ) -> pb.ScoreResponse:
        """The answer; raises what the engine refuses or fails with. What is left is cancelled."""
        served = self._serving.now
        parsed = ScoreParser(served.requests).parse(message, request_id, traceparent)
        requests = [*parsed.steered, *parsed.baselines]
        streams = [EventStream(most_events(request)) for request in requests]
        submissions = self._engine.submit_all(
            [(request, stream.deliver) for request, stream in zip(requests, streams, strict=True)],
            served.saes,
        )
        try:
            scored = [await scored_events(stream, requests[0].steering) for stream in streams]
        finally:
            for submission in submissions:
                self._engine.cancel(submission)
        tokens = sum(len(request.continuation) for request in parsed.steered)
        _log.info(
            "Score id=%s code=OK continuations=%d tokens=%d interventions=%d baseline=%s",
            request_id,
            len(parsed.steered),
            tokens,
            len(message.interventions),
            message.baseline,
        )
        steering, tokenizer = parsed.steered[0].steering, served.requests.host.tokenizer
        baselines = scored[len(parsed.steered) :] or [Scored()] * len(parsed.steered)
        return pb.ScoreResponse(
            request_id=request_id,
            scores=[
                continuation_score(request, steered, baseline, tokenizer)
                for request, steered, baseline in zip(parsed.steered, scored, baselines, strict=False)
            ],
            interventions=[applied_message(each) for each in steering.numbered],
            presets=[named_message(preset) for preset in steering.presets],
            policies=[named_message(policy) for policy in steering.policies],
            warnings=steering.warnings,
            plan_hash=parsed.steered[0].plan_hash,
        )


def most_events(request: GenerationRequest) -> int:
    """Two a row, its score or token and what fires there, a first and a last.

    Streams may be read one by one, so each must hold all its events.
    """
    return 2 * (len(request.given_ids) + request.num_new) + 2


async def scored_events(stream: EventStream, steering: Steering) -> Scored:
    """All that is scored, as it comes; raises why a text was not scored to its end."""
    chunks: list[ScoredEvent] = []
    fired: list[Firing] = []
    while True:
        for event in await stream.next_events():
            match event:
                case ScoredEvent():
                    chunks.append(event)
                case FiredEvent(firings):
                    fired += firings
                case FailedEvent(error):
                    raise error
                case FinishedEvent(reason=FinishReason.SCORED, receipt=receipt):
                    return Scored(chunks, receipt)
                case FinishedEvent(reason=FinishReason.FEATURE):
                    raise policy_stopped(fired, steering, field="continuations")
                case FinishedEvent():
                    raise Unavailable("the server gave up the request", reason="GIVEN_UP")
