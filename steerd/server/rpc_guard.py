"""Around every RPC: bytes that are no message, failures as statuses, and the counts.

Without it grpc answers undecodable bytes and uncaught exceptions with UNKNOWN and the exception's text.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import secrets
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError

from steerd.errors import FieldViolation, InvalidRequest, Overloaded, SteerdError, Unavailable
from steerd.server.edge_observer import UNKNOWN_RPC, EdgeObserver, Rpc
from steerd.server.status import Failure, failure_of, internal_failure, outcome_of

# Messages and contexts of any service pass here, hence Any.
Context = grpc.aio.ServicerContext[Any, Any]
Behaviour = Callable[[Any, Context], Any]

_log = logging.getLogger(__name__)

REQUEST_ID_TRAILER = "steerd-request-id"

_DEADLINE_SLACK_SECONDS = 0.1
_UNDECODABLE = object()


class RpcGuard(grpc.aio.ServerInterceptor):
    """Wraps the handlers of all services alike."""

    def __init__(self, observer: EdgeObserver) -> None:
        self._observer = observer

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """The guarded handler of a call; one that answers UNIMPLEMENTED when no service has the method."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return grpc.unary_unary_rpc_method_handler(self._guarded(_unimplemented, UNKNOWN_RPC))
        rpc = rpc_of(str(handler_call_details.method), handler)
        make, behaviour = _parts(handler)
        return make(
            self._guarded(behaviour, rpc),
            request_deserializer=_lenient(handler.request_deserializer),
            response_serializer=handler.response_serializer,
        )

    def _guarded(self, behaviour: Behaviour, rpc: Rpc) -> Behaviour:
        async def guarded(request: Any, context: Context) -> Any:
            return await self._run(behaviour, rpc, request, context)

        return guarded

    async def _run(self, behaviour: Behaviour, rpc: Rpc, request: Any, context: Context) -> Any:
        """Answer, and have every end counted and logged before the client learns of it."""
        end = _End(self._observer, rpc, context)
        try:
            answer = await _answer(behaviour, request, context)
        except asyncio.CancelledError:
            end.record(_cancel_code(context))
            raise
        except grpc.aio.AbortError:
            end.record(context.code())
            raise
        except Exception as error:
            failure = self._failure(error, rpc)
            end.record(failure.code, failure.message)
            trailers = (*(context.trailing_metadata() or ()), *failure.trailers)
            await context.abort(failure.code, failure.message, trailers)
        end.record(grpc.StatusCode.OK)
        return answer

    def _failure(self, error: Exception, rpc: Rpc) -> Failure:
        failure = failure_of(error) if isinstance(error, SteerdError) else None
        if failure is None:
            incident = secrets.token_hex(4)
            _log.error("%s failed, incident=%s", rpc.method, incident, exc_info=error)
            return internal_failure(incident)
        if isinstance(error, Overloaded | Unavailable):
            self._observer.request_rejected(failure.reason)
        return failure


class _End:
    """One RPC's beginning and end, for the counts and the log."""

    def __init__(self, observer: EdgeObserver, rpc: Rpc, context: Context) -> None:
        self._observer = observer
        self._rpc = rpc
        self._context = context
        self._started = time.monotonic()
        observer.rpc_started(rpc)

    def record(self, code: grpc.StatusCode, message: str = "") -> None:
        seconds = time.monotonic() - self._started
        request_id = str(dict(self._context.trailing_metadata() or ()).get(REQUEST_ID_TRAILER, ""))
        self._observer.rpc_finished(
            self._rpc, code=code.name, outcome=outcome_of(code), seconds=seconds, request_id=request_id
        )
        if code is not grpc.StatusCode.OK:
            _log.info(
                "%s id=%s code=%s seconds=%.3f %s",
                self._rpc.method,
                request_id or "-",
                code.name,
                seconds,
                message,
            )


def rpc_of(path: str, handler: Any) -> Rpc:
    """Name the RPC of a handler at `/service/method`."""
    service, _, method = path.removeprefix("/").rpartition("/")
    types = {
        (False, False): "unary",
        (False, True): "server_stream",
        (True, False): "client_stream",
        (True, True): "bidi_stream",
    }
    return Rpc(types[handler.request_streaming, handler.response_streaming], service, method)


async def _answer(behaviour: Behaviour, request: Any, context: Context) -> Any:
    """Run a handler of any form; what it yields is written here, so that a cancel ends it at once."""
    request = _decoded_stream(request) if isinstance(request, AsyncIterable) else _decoded(request)
    try:
        answer = behaviour(request, context)
    except NotImplementedError:  # from the base class of a servicer that leaves the method out
        await _unimplemented(request, context)
    if not inspect.isasyncgen(answer):
        return await answer
    async with aclosing(answer) as messages:
        async for message in messages:
            await context.write(message)
    return None


def _decoded(message: Any) -> Any:
    if message is _UNDECODABLE:
        raise InvalidRequest([FieldViolation("request", "is not a valid message")])
    return message


async def _decoded_stream(messages: AsyncIterable[Any]) -> AsyncIterator[Any]:
    async for message in messages:
        yield _decoded(message)


async def _unimplemented(request: Any, context: Context) -> NoReturn:  # noqa: ARG001  # a handler's signature
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "no such method")


def _lenient(decode: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
    """A decoder that marks bytes that are no message, for `_decoded` to refuse."""

    def decode_or_mark(data: bytes) -> Any:
        try:
            return data if decode is None else decode(data)
        except DecodeError:
            return _UNDECODABLE

    return decode_or_mark


def _parts(handler: Any) -> tuple[Callable[..., Any], Behaviour]:
    """What makes a handler of the same form, and what it runs."""
    match handler.request_streaming, handler.response_streaming:
        case False, False:
            return grpc.unary_unary_rpc_method_handler, handler.unary_unary
        case False, True:
            return grpc.unary_stream_rpc_method_handler, handler.unary_stream
        case True, False:
            return grpc.stream_unary_rpc_method_handler, handler.stream_unary
        case _:
            return grpc.stream_stream_rpc_method_handler, handler.stream_stream


def _cancel_code(context: Context) -> grpc.StatusCode:
    """grpc cancels a handler alike when the client cancels, vanishes or has run out of time.

    The server's clock of a call starts later than the client's, who may so be the first to end it.
    """
    remaining = context.time_remaining()
    if remaining is not None and remaining <= _DEADLINE_SLACK_SECONDS:
        return grpc.StatusCode.DEADLINE_EXCEEDED
    return grpc.StatusCode.CANCELLED
