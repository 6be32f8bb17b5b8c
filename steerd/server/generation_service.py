"""GenerationService: the life of one request at the edge."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

import grpc

from steerd.config import ServerConfig
from steerd.engine.events import StreamEvent
from steerd.engine.request import GenerationRequest
from steerd.engine.waiting_line import Submission
from steerd.errors import DeadlineExceeded
from steerd.host.host_model import HostModel
from steerd.pb.v1 import generation_service_pb2 as pb
from steerd.pb.v1.generation_service_pb2_grpc import GenerationServiceServicer
from steerd.server.admission import Admission
from steerd.server.edge_observer import EdgeObserver
from steerd.server.event_stream import EventStream
from steerd.server.parse import request_id_of
from steerd.server.reply import ReplyWriter
from steerd.server.rpc_guard import REQUEST_ID_TRAILER
from steerd.server.scoring import GroupEngine, Scoring
from steerd.server.served import Serving
from steerd.server.slow_reader import write_in_time
from steerd.steering.loaded_saes import LoadedSaes

Context = grpc.aio.ServicerContext[pb.GenerateRequest, pb.GenerateResponse]
ScoreContext = grpc.aio.ServicerContext[pb.ScoreRequest, pb.ScoreResponse]

_TRACEPARENT = "traceparent"  # the header of W3C's Trace Context

_log = logging.getLogger(__name__)


class TokenEngine(GroupEngine, Protocol):
    """What the edge needs of the engine. All may be called from any thread."""

    def submit(
        self,
        request: GenerationRequest,
        deliver: Callable[[StreamEvent], None],
        saes: LoadedSaes | None = None,
    ) -> Submission:
        """Take in a request for these SAEs.

        Raises Overloaded, AlreadyExists, Unavailable or InvalidRequest.
        """


class GenerationService(GenerationServiceServicer):
    """Parses, submits, streams; whatever ends a call also frees its place in the engine."""

    def __init__(
        self,
        engine: TokenEngine,
        serving: Serving,
        *,
        config: ServerConfig,
        admission: Admission,
        observer: EdgeObserver,
    ) -> None:
        self._engine = engine
        self._serving = serving
        self._config = config
        self._admission = admission
        self._observer = observer
        self._scoring = Scoring(engine, serving)

    # A coroutine that writes, not a generator: a cancel while a message waits for a slow client must reach
    # the `finally` below at once.
    async def Generate(self, message: pb.GenerateRequest, context: Context) -> None:  # type: ignore[override]
        request_id = request_id_of(message)
        context.set_trailing_metadata(((REQUEST_ID_TRAILER, request_id),))
        with self._admission.admitted():
            served = self._serving.now
            request = served.requests.parse(message, request_id, _traceparent(context))
            stream = EventStream(self._config.stream_buffer_events)
            submission = self._engine.submit(request, stream.deliver, served.saes)
            try:
                async with self._time_limit():
                    await context.send_initial_metadata(())
                    await self._stream(request, served.requests.host, message.sampling.stop, stream, context)
            finally:
                self._engine.cancel(submission)

    async def Score(self, message: pb.ScoreRequest, context: ScoreContext) -> pb.ScoreResponse:
        request_id = request_id_of(message)
        context.set_trailing_metadata(((REQUEST_ID_TRAILER, request_id),))
        with self._admission.admitted():
            async with self._time_limit():
                return await self._scoring.score(message, request_id, _traceparent(context))

    async def _stream(
        self,
        request: GenerationRequest,
        host: HostModel,
        stop: Sequence[str],
        stream: EventStream,
        context: Context,
    ) -> None:
        writer = ReplyWriter(request, tokenizer=host.tokenizer, model=host.name, stop=stop)
        while writer.finished is None:
            for reply in writer.write(await stream.next_events()):
                await self._send(reply, context)
        usage, timings = writer.finished, writer.finished.timings
        _log.info(
            "Generate id=%s code=OK finish=%s prompt_tokens=%d generated_tokens=%d interventions=%d "
            "queue=%.3f prefill=%.3f decode=%.3f",
            request.id,
            usage.reason.value,
            usage.prompt_tokens,
            usage.generated_tokens,
            len(request.steering.interventions),
            timings.queue_seconds,
            timings.prefill_seconds,
            timings.decode_seconds,
        )

    async def _send(self, reply: pb.GenerateResponse, context: Context) -> None:
        """Write one message; a client that takes none for too long is given up."""
        await write_in_time(context, reply, self._config.slow_reader_seconds)
        self._observer.messages_sent(1, max(len(reply.delta.token_ids) - 1, 0))

    @asynccontextmanager
    async def _time_limit(self) -> AsyncIterator[None]:
        limit = self._config.max_request_seconds
        try:
            async with asyncio.timeout(limit):
                yield
        except TimeoutError:
            raise DeadlineExceeded(
                f"the request took longer than the server allows, {limit:g} seconds"
            ) from None


def _traceparent(context: Context | ScoreContext) -> str:
    """What the caller says of its span; "" when it says nothing."""
    return str(dict(context.invocation_metadata() or ()).get(_TRACEPARENT, ""))
