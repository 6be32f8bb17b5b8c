"""One study's life at the edge, a slice at a time: progress, stop, time limit, cancel, failure, cache."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest

from steerd.config import ServerConfig
from steerd.engine.study import Progress
from steerd.errors import AlreadyExists, NotFound, Overloaded, Unavailable
from steerd.pb.v1 import feature_service_pb2 as pb
from steerd.server.admission import Admission
from steerd.server.study_cache import StudyCache
from steerd.server.studying import AskedStudy, Studying
from tests.server.scripted import Counts, ScriptedEngine


@dataclass(frozen=True)
class Sum:
    complete: bool
    texts: int


@dataclass
class Counting:
    """A text a slice, told early when `tells`."""

    slices: int = 3
    tells: bool = False
    done: int = 0

    def run(self) -> Iterator[Progress]:
        for number in range(self.slices):
            self.done += 1
            yield Progress(self.done, self.slices, "texts", number if self.tells else None)

    def result(self) -> Sum:
        return Sum(self.done == self.slices, self.done)


@dataclass
class Call:
    """The server's end of one call, which keeps what is written."""

    messages: list[pb.EncodeResponse] = field(default_factory=list)
    trailers: tuple[tuple[str, str], ...] = ()
    began: bool = False

    def set_trailing_metadata(self, trailers: tuple[tuple[str, str], ...]) -> None:
        self.trailers = trailers

    async def send_initial_metadata(self, _: Any) -> None:
        self.began = True

    async def write(self, message: pb.EncodeResponse) -> None:
        self.messages.append(message)

    @property
    def kinds(self) -> list[str]:
        return [str(message.WhichOneof("event")) for message in self.messages]


class Edge:
    """Studying on an engine whose slices the test runs."""

    def __init__(self) -> None:
        self.engine = ScriptedEngine()
        self.admission = Admission()
        self.studying = Studying(self.engine, ServerConfig(), self.admission, Counts())

    def begin(self, study: Counting, call: Any, *, key: str = "", **message: Any) -> asyncio.Task[None]:
        asked = AskedStudy(
            study=study,
            response=pb.EncodeResponse,
            result_message=lambda found: pb.EncodeResult(complete=found.complete, texts=found.texts),
            part_messages=lambda part: [pb.EncodeResponse(tokens=pb.EncodedTokens(text=part))],
            key=key,
        )
        run = self.studying.run(pb.EncodeRequest(**message), call, lambda _: asked)
        return asyncio.create_task(run)

    async def taken_in(self, count: int = 1) -> None:
        while len(self.engine.studies) < count:
            await asyncio.sleep(0)

    async def turn(self, count: int = 1) -> None:
        for _ in range(count):
            self.engine.studies.turn(None)
            for _ in range(5):
                await asyncio.sleep(0)


@asynccontextmanager
async def edge() -> AsyncIterator[Edge]:
    async with asyncio.timeout(60):
        yield Edge()


def test_progress_then_parts_then_one_result() -> None:
    async def scenario() -> Call:
        async with edge() as edge_:
            call = Call()
            task = edge_.begin(Counting(tells=True), call, request_id="mine")
            await edge_.taken_in()
            await edge_.turn(4)
            await task
            assert len(edge_.engine.studies) == 0
        return call

    call = asyncio.run(scenario())

    assert call.began
    assert call.trailers == (("steerd-request-id", "mine"),)
    assert [m.tokens.text for m in call.messages if m.HasField("tokens")] == [0, 1, 2]
    assert call.kinds[-1] == "result"
    assert call.kinds.count("result") == 1
    assert (call.messages[-1].result.complete, call.messages[-1].result.texts) == (True, 3)
    first = next(message.progress for message in call.messages if message.HasField("progress"))
    assert (first.done, first.total, first.unit) == (1, 3, "texts")


def test_progress_is_told_now_and_then_only() -> None:
    async def scenario() -> Call:
        async with edge() as edge_:
            call = Call()
            task = edge_.begin(Counting(slices=50), call)
            await edge_.taken_in()
            await edge_.turn(51)
            await task
        return call

    call = asyncio.run(scenario())

    assert 1 <= call.kinds.count("progress") < 10


def test_a_stopped_study_tells_what_it_has() -> None:
    async def scenario() -> Call:
        async with edge() as edge_:
            call = Call()
            task = edge_.begin(Counting(slices=9), call, request_id="mine")
            await edge_.taken_in()
            await edge_.turn(2)
            edge_.studying.stop("mine")
            await edge_.turn()
            await task
            with pytest.raises(NotFound, match="no study 'mine' is under way"):
                edge_.studying.stop("mine")
        return call

    result = asyncio.run(scenario()).messages[-1].result

    assert (result.complete, result.texts) == (False, 2)


def test_max_seconds_ends_a_study_with_what_it_has() -> None:
    async def scenario() -> Call:
        async with edge() as edge_:
            call = Call()
            task = edge_.begin(Counting(slices=1 << 60), call, max_seconds=0.01)
            await edge_.taken_in()
            while not task.done():
                await edge_.turn()
            await task
        return call

    result = asyncio.run(scenario()).messages[-1].result

    assert not result.complete
    assert result.texts > 0


def test_a_cancelled_call_drops_its_study() -> None:
    async def scenario() -> None:
        async with edge() as edge_:
            call = Call()
            task = edge_.begin(Counting(slices=9), call, request_id="mine")
            await edge_.taken_in()
            await edge_.turn()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await edge_.turn()
            assert len(edge_.engine.studies) == 0
            assert "result" not in call.kinds
            again = edge_.begin(Counting(slices=1), Call(), request_id="mine")
            await edge_.taken_in()
            await edge_.turn(2)
            await again

    asyncio.run(scenario())


def test_ids_room_and_shutdown_are_as_for_generations() -> None:
    async def scenario() -> None:
        async with edge() as edge_:
            tasks = [edge_.begin(Counting(), Call(), request_id=name) for name in ("one", "two")]
            await edge_.taken_in(2)
            with pytest.raises(AlreadyExists):
                await edge_.begin(Counting(), Call(), request_id="one")
            with pytest.raises(Overloaded):
                await edge_.begin(Counting(), Call(), request_id="three")
            assert not await edge_.admission.drain(0)
            with pytest.raises(Unavailable):
                await edge_.begin(Counting(), Call(), request_id="four")
            await edge_.turn(8)
            await asyncio.gather(*tasks)
            assert await edge_.admission.drain(60)

    asyncio.run(scenario())


def test_a_failure_is_the_calls_own() -> None:
    class Failing(Counting):
        def result(self) -> Sum:
            raise ArithmeticError

    async def scenario() -> None:
        async with edge() as edge_:
            task = edge_.begin(Failing(), Call())
            await edge_.taken_in()
            await edge_.turn(4)
            with pytest.raises(ArithmeticError):
                await task

    asyncio.run(scenario())


def test_a_complete_result_is_kept_and_a_part_is_not() -> None:
    async def scenario() -> tuple[Call, Call]:
        async with edge() as edge_:
            stopped = edge_.begin(Counting(), Call(), key="k", request_id="mine")
            await edge_.taken_in()
            edge_.studying.stop("mine")
            await edge_.turn()
            await stopped
            whole, cached = Call(), Call()
            second = edge_.begin(Counting(), whole, key="k")
            await edge_.taken_in()
            await edge_.turn(4)
            await second
            await edge_.begin(Counting(), cached, key="k")
        return whole, cached

    whole, cached = asyncio.run(scenario())

    assert whole.messages[-1].result.complete
    assert cached.messages == whole.messages[-1:]


def test_the_cache_forgets_what_was_not_asked_for_longest() -> None:
    cache = StudyCache(2)
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a") == 1
    cache.put("c", 3)

    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (1, None, 3)


def test_stop_study_over_the_wire(server: Any) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        server.features.StopStudy(pb.StopStudyRequest(request_id="nobody"), timeout=60)

    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
