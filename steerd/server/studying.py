"""The life of one study at the edge: taken in, its progress told, ended in time, its result told once."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import grpc

from steerd.config import ServerConfig
from steerd.engine.study import DeliverStudy, Study, StudyEnded, StudyFailed
from steerd.engine.study_line import StudyJob, too_many_studies
from steerd.errors import AlreadyExists, DeadlineExceeded, NotFound, Unavailable
from steerd.server.admission import Admission
from steerd.server.composed_study import ComposedJob, ComposedStudy
from steerd.server.edge_observer import EdgeObserver
from steerd.server.parse import request_id_of
from steerd.server.parse_study import StudyMessage
from steerd.server.rpc_guard import REQUEST_ID_TRAILER
from steerd.server.slow_reader import write_in_time
from steerd.server.study_cache import StudyCache
from steerd.server.study_stream import StudyStream
from steerd.study_wire.study_text import progress_message

R = TypeVar("R", bound="StudyResult")
Request = TypeVar("Request", bound=StudyMessage)

_SECONDS_BETWEEN_PROGRESS = 0.5
_CACHED_RESULTS = 32
_MAX_COMPOSED = 4  # each has requests of its own in the engine

_log = logging.getLogger(__name__)


class StudyEngine(Protocol):
    """What studies need of the engine. Both may be called from any thread."""

    def study(self, study: Study[Any], deliver: DeliverStudy) -> StudyJob:
        """Take a study in, or raise Overloaded or Unavailable."""

    def stop_study(self, job: StudyJob, *, keep: bool) -> None:
        """End a study, with its result so far or none; does nothing when it has ended."""


class StudyResult(Protocol):
    """What every result has: whether it is about all that was asked for."""

    @property
    def complete(self) -> bool: ...


class StudyResponse(Protocol):
    """A message type of a study's stream, with fields `progress` and `result`."""

    def __call__(self, *, progress: Any = None, result: Any = None) -> Any: ...


@dataclass(frozen=True, slots=True)
class AskedStudy(Generic[R]):
    """A study, and how it answers: the type of its stream's messages, the message of its result and, if it
    tells parts early, the messages of each.

    Its result, if complete, is kept under `key`, unless that is empty.
    """

    study: Study[R] | ComposedStudy[R]
    response: StudyResponse
    result_message: Callable[[R], Any]
    part_messages: Callable[[Any], Iterable[Any]] = lambda _: ()
    key: str = ""


class Studying:
    """Runs the studies of all RPCs. Belongs to one event loop."""

    def __init__(
        self, engine: StudyEngine, config: ServerConfig, admission: Admission, observer: EdgeObserver
    ) -> None:
        self._engine = engine
        self._config = config
        self._admission = admission
        self._observer = observer
        self._cache = StudyCache(_CACHED_RESULTS)
        self._stops: dict[str, Callable[[bool], None]] = {}  # by request id; whether to keep the result
        self._composed = 0  # under way
        self._draining = False

    async def run(
        self,
        message: Request,
        context: grpc.aio.ServicerContext[Request, Any],
        parse: Callable[[Request], AskedStudy[R]],
    ) -> None:
        """Answer one call; `parse` runs in a thread, as reading many texts takes its time, and may raise
        what is wrong with the request."""
        request_id = request_id_of(message)
        context.set_trailing_metadata(((REQUEST_ID_TRAILER, request_id),))
        with self._admission.admitted():
            async with self._time_limit(message.max_seconds):
                asked = await asyncio.to_thread(parse, message)
                cached: R | None = self._cache.get(asked.key) if asked.key else None
                result = cached or await self._studied(asked, message, request_id, context)
                await self._send(asked.response(result=asked.result_message(result)), context)
        name = type(message).__name__.removesuffix("Request")
        _log.info("%s id=%s code=OK complete=%s cached=%s", name, request_id, result.complete, bool(cached))

    async def answer(self, study: Study[R], key: str = "") -> R:
        """The whole result of a short study, for a call that is no stream.

        Raises Unavailable where a drain cut it off.
        """
        with self._admission.admitted():
            async with self._time_limit(0):
                cached: R | None = self._cache.get(key) if key else None
                return cached or await self._answered(study, key)

    async def _answered(self, study: Study[R], key: str) -> R:
        stream = StudyStream()
        job = self._engine.study(study, stream.deliver)
        try:
            while (heard := await stream.next()).end is None:
                pass
        finally:
            self._engine.stop_study(job, keep=False)
        if isinstance(heard.end, StudyFailed):
            raise heard.end.error
        result: R = heard.end.result
        if not result.complete:
            raise Unavailable("the server is draining", reason="DRAINING")
        if key:
            self._cache.put(key, result)
        return result

    def stop(self, request_id: str) -> None:
        """Have a study end with its result so far; raises NotFound."""
        stop = self._stops.get(request_id)
        if stop is None:
            message = f"no study {request_id!r} is under way"
            raise NotFound(message, reason="STUDY_NOT_FOUND", field="request_id")
        stop(True)

    def drain(self) -> None:
        """Take no more in, and have all end with their results so far."""
        self._draining = True
        for stop in self._stops.values():
            stop(True)

    async def _studied(self, asked: AskedStudy[R], message: StudyMessage, request_id: str, context: Any) -> R:
        """Run the study to its end; whatever ends the call ends the study."""
        if request_id in self._stops:
            raise AlreadyExists(f"request_id {request_id!r} is in use")
        stream = StudyStream()
        with self._begun(asked.study, stream) as stop:
            self._stops[request_id] = stop
            limit = message.max_seconds or self._config.max_study_seconds
            timer = asyncio.get_running_loop().call_later(limit, stop, True)
            try:
                await context.send_initial_metadata(())
                result: R = await self._followed(stream, asked, context)
            finally:
                timer.cancel()
                stop(False)
                del self._stops[request_id]
        if asked.key and result.complete:
            self._cache.put(asked.key, result)
        return result

    @contextmanager
    def _begun(
        self, study: Study[Any] | ComposedStudy[Any], stream: StudyStream
    ) -> Iterator[Callable[[bool], None]]:
        """Hold a place for a study that has begun; yields how it is stopped."""
        if self._draining:
            raise Unavailable("the server is shutting down", reason="DRAINING")
        if not isinstance(study, ComposedStudy):
            job = self._engine.study(study, stream.deliver)
            yield lambda keep: self._engine.stop_study(job, keep=keep)
            return
        if self._composed >= _MAX_COMPOSED:
            raise too_many_studies(self._composed, _MAX_COMPOSED)
        self._composed += 1
        composed = ComposedJob(study, stream.deliver)
        try:
            yield lambda keep: composed.stop(keep=keep)
        finally:
            self._composed -= 1

    async def _followed(self, stream: StudyStream, asked: AskedStudy[R], context: Any) -> R:
        told = -_SECONDS_BETWEEN_PROGRESS
        while True:
            heard = await stream.next()
            for part in heard.parts:
                for reply in asked.part_messages(part):
                    await self._send(reply, context)
            match heard.end:
                case StudyEnded(result):
                    return result  # type: ignore[no-any-return]  # of the study's own type
                case StudyFailed(error):
                    raise error
            if heard.progress is not None and time.monotonic() - told >= _SECONDS_BETWEEN_PROGRESS:
                await self._send(asked.response(progress=progress_message(heard.progress)), context)
                told = time.monotonic()

    async def _send(self, reply: Any, context: Any) -> None:
        await write_in_time(context, reply, self._config.slow_reader_seconds)
        self._observer.messages_sent(1, 0)

    @asynccontextmanager
    async def _time_limit(self, max_seconds: float) -> AsyncIterator[None]:
        """A study that should have ended has a while for its last slice and its result."""
        limit = (max_seconds or self._config.max_study_seconds) + self._config.stall_seconds
        try:
            async with asyncio.timeout(limit):
                yield
        except TimeoutError:
            raise DeadlineExceeded(f"the study did not end within {limit:g} seconds") from None
