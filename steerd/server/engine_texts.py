"""Texts that a study has written or read by the engine: ordinary requests, a few at a time beside others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

from steerd.engine.events import FailedEvent, FinishedEvent, TokenEvent
from steerd.engine.request import FinishReason, GenerationRequest
from steerd.engine.study import Study, StudyEnded, StudyFailed
from steerd.errors import Overloaded, Unavailable
from steerd.server.event_stream import EventStream
from steerd.server.reply_score import Scored
from steerd.server.scoring import GroupEngine, most_events, scored_events
from steerd.server.study_stream import StudyStream
from steerd.server.studying import StudyEngine
from steerd.steering.loaded_saes import LoadedSaes

R = TypeVar("R")

_RETRY_SECONDS = 0.2


class TextEngine(GroupEngine, StudyEngine, Protocol):
    """What composed studies need of the engine."""


class EngineTexts:
    """Runs requests and studies for one composed study, and waits where the engine is full."""

    def __init__(self, engine: TextEngine, saes: LoadedSaes, *, at_once: int) -> None:
        """Its requests are for these SAEs; at most `at_once` of them are in the engine at a time."""
        self._engine = engine
        self._saes = saes
        self._places = asyncio.Semaphore(at_once)

    async def write(self, requests: Iterable[GenerationRequest]) -> list[tuple[int, ...]]:
        """The ids that each generates."""
        return await _together([self._written(request) for request in requests])

    async def read(self, requests: Iterable[GenerationRequest]) -> list[Scored]:
        """How likely each one's continuation is, and what is read on it."""
        return await _together([self._read(request) for request in requests])

    async def study(self, study: Study[R]) -> R:
        """The result of a study of the engine's, which is about a part when the engine drains."""
        stream = StudyStream()
        job = await _patiently(lambda: self._engine.study(study, stream.deliver))
        try:
            while True:
                match (await stream.next()).end:
                    case StudyEnded(result):
                        return result  # type: ignore[no-any-return]  # of the study's own type
                    case StudyFailed(error):
                        raise error
        finally:
            self._engine.stop_study(job, keep=False)

    async def _written(self, request: GenerationRequest) -> tuple[int, ...]:
        token_ids: list[int] = []
        async with self._submitted(request) as stream:
            while True:
                for event in await stream.next_events():
                    match event:
                        case TokenEvent(token_id=token_id):
                            token_ids.append(token_id)
                        case FailedEvent(error):
                            raise error
                        case FinishedEvent(reason=FinishReason.CANCELLED):
                            raise Unavailable("the server gave up the request", reason="GIVEN_UP")
                        case FinishedEvent():
                            return tuple(token_ids)

    async def _read(self, request: GenerationRequest) -> Scored:
        async with self._submitted(request) as stream:
            return await scored_events(stream, request.steering)

    @asynccontextmanager
    async def _submitted(self, request: GenerationRequest) -> AsyncIterator[EventStream]:
        async with self._places:
            stream = EventStream(most_events(request))
            (submission,) = await _patiently(
                lambda: self._engine.submit_all([(request, stream.deliver)], self._saes)
            )
            try:
                yield stream
            finally:
                self._engine.cancel(submission)


async def _patiently(begin: Callable[[], R]) -> R:
    """Begin something as soon as there is room for it."""
    while True:
        try:
            return begin()
        except Overloaded:
            await asyncio.sleep(_RETRY_SECONDS)


async def _together(work: Sequence[Coroutine[Any, Any, R]]) -> list[R]:
    """The results in order; when one fails, the others are given up."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
