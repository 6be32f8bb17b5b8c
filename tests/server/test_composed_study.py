"""Studies that run on the event loop: their ends, and what they ask of a full engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from steerd.engine.events import FailedEvent
from steerd.engine.request import GenerationRequest
from steerd.engine.study import Progress, StudyEnded, StudyEvent, StudyFailed
from steerd.errors import NotFound, Overloaded, Unavailable
from steerd.server.composed_study import ComposedJob, ComposedStudy
from steerd.server.engine_texts import EngineTexts
from tests.engine.requests import SHORT, greedy_request
from tests.server.running_server import tiny_parts
from tests.server.scripted import ScriptedEngine, finished, token

_, SAES = tiny_parts()


class Waiting(ComposedStudy[str]):
    """Ends when `released` or stopped."""

    def __init__(self) -> None:
        super().__init__()
        self.released = asyncio.Event()
        self.given_up = False

    async def run(self, tell: Callable[[Progress], None]) -> str:
        tell(Progress(0, 1, "things"))
        found = await self.unless_stopped(self._work())
        return "a part" if found is None else found

    async def _work(self) -> str:
        try:
            await self.released.wait()
        except asyncio.CancelledError:
            self.given_up = True
            raise
        return "all"


async def events_of(study: Waiting, act: Callable[[ComposedJob], None]) -> list[StudyEvent]:
    events: list[StudyEvent] = []
    job = ComposedJob(study, events.append)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    act(job)
    async with asyncio.timeout(60):
        while not (events and isinstance(events[-1], StudyEnded | StudyFailed)):
            await asyncio.sleep(0)
    job.stop(keep=True)
    job.stop(keep=False)
    await asyncio.sleep(0)
    return events


def test_it_ends_with_all_or_stopped_with_a_part() -> None:
    whole, part = Waiting(), Waiting()

    assert asyncio.run(events_of(whole, lambda _: whole.released.set()))[1:] == [StudyEnded("all")]
    assert asyncio.run(events_of(part, lambda job: job.stop(keep=True)))[1:] == [StudyEnded("a part")]
    assert part.given_up


def test_dropped_it_fails_and_gives_up_its_work() -> None:
    study = Waiting()

    events = asyncio.run(events_of(study, lambda job: job.stop(keep=False)))

    assert isinstance(events[-1], StudyFailed)
    assert study.given_up


def test_what_goes_wrong_is_told() -> None:
    class Broken(Waiting):
        async def _work(self) -> str:
            raise NotFound("nothing there", reason="NOTHING", field="here")

    events = asyncio.run(events_of(Broken(), lambda _: None))

    assert isinstance(events[-1], StudyFailed)
    assert isinstance(events[-1].error, NotFound)


def requests(count: int) -> list[GenerationRequest]:
    return [greedy_request(f"request-{number}", SHORT) for number in range(count)]


def test_texts_are_written_in_order_and_their_requests_freed() -> None:
    async def scenario() -> tuple[list[tuple[int, ...]], ScriptedEngine]:
        engine = ScriptedEngine([token(11, 5), token(12, 6), finished()])
        return await EngineTexts(engine, SAES, at_once=2).write(requests(5)), engine

    written, engine = asyncio.run(scenario())

    assert written == [(5, 6)] * 5
    assert {submission.request.id for submission in engine.cancelled} == {f"request-{n}" for n in range(5)}


def test_a_full_engine_is_asked_again() -> None:
    class Full(ScriptedEngine):
        refusals = 3

        def submit(self, *arguments: object) -> object:  # type: ignore[override]
            if self.refusals:
                self.refusals -= 1
                raise Overloaded("full", reason="QUEUE_FULL")
            return super().submit(*arguments)  # type: ignore[arg-type]

    async def scenario() -> list[tuple[int, ...]]:
        return await EngineTexts(Full([token(11, 5), finished()]), SAES, at_once=2).write(requests(1))

    assert asyncio.run(scenario()) == [(5,)]


def test_the_failure_of_one_gives_up_the_others() -> None:
    async def scenario() -> list[tuple[int, ...]]:
        engine = ScriptedEngine([token(11, 5), FailedEvent(Unavailable("over", reason="OVER"))])
        return await EngineTexts(engine, SAES, at_once=1).write(requests(3))

    with pytest.raises(Unavailable, match="over"):
        asyncio.run(scenario())
