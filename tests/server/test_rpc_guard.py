"""What a client sees when something goes wrong inside, and that every call is counted."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from steerd.engine.events import FailedEvent, StartedEvent
from steerd.engine.request import FinishReason
from steerd.engine.waiting_line import Submission
from steerd.errors import InvalidRequest, Unavailable
from steerd.monitoring.rpc_metrics import STATUS_CODES
from steerd.pb.v1 import catalog_service_pb2, feature_pb2, feature_service_pb2
from steerd.pb.v1 import generation_service_pb2 as pb
from steerd.pb.v1.generation_service_pb2_grpc import GenerationServiceStub
from steerd.server.rpc_guard import RpcGuard
from steerd.server.status import CODES
from tests.server.scripted import Counts, ScriptedServer, finished, readings, scripted_server, token

GENERATE = "/steerd.v1.GenerationService/Generate"
REQUEST = pb.GenerateRequest(prompt="a")


async def call(server: ScriptedServer, request: pb.GenerateRequest = REQUEST) -> list[pb.GenerateResponse]:
    stub = GenerationServiceStub(server.channel)
    return [message async for message in stub.Generate(request, timeout=30)]


async def failure(server: ScriptedServer) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(server)
    return caught.value


def test_an_uncaught_exception_becomes_an_id_and_a_log_entry(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> grpc.aio.AioRpcError:
        async with scripted_server(refusal=RuntimeError("secret /opt/models/path")) as server:
            error = await failure(server)
            assert server.counts.finished == [("Generate", "INTERNAL", "error")]
        return error

    error = asyncio.run(scenario())

    assert error.code() is grpc.StatusCode.INTERNAL
    incident = error.details().removeprefix("internal error, id ")
    assert len(incident) == 8
    assert "secret" not in str(error)
    assert f"incident={incident}" in caplog.text
    assert "secret /opt/models/path" in caplog.text


def test_a_failed_event_ends_the_stream_after_what_came_before() -> None:
    gone = Unavailable("gone", reason="ENGINE_STOPPED")

    async def scenario() -> tuple[list[str | None], grpc.StatusCode]:
        kinds = []
        async with scripted_server(StartedEvent(0.0), token(1), FailedEvent(gone)) as server:
            try:
                async for message in GenerationServiceStub(server.channel).Generate(REQUEST):
                    kinds.append(message.WhichOneof("event"))
            except grpc.aio.AioRpcError as error:
                assert server.counts.rejected == ["ENGINE_STOPPED"]
                return kinds, error.code()
        raise AssertionError("the stream ended with OK")

    assert asyncio.run(scenario()) == (["started", "delta"], grpc.StatusCode.UNAVAILABLE)


def test_a_request_that_the_engine_gave_up_never_completes() -> None:
    async def scenario() -> grpc.aio.AioRpcError:
        async with scripted_server(finished(FinishReason.CANCELLED)) as server:
            return await failure(server)

    assert asyncio.run(scenario()).code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("garbage", [b"\xff\xff\xff", b"\x0a\x05abc", b"\x0a\x02\xff\xfe", b"\x0a"])
@pytest.mark.parametrize("method", [GENERATE, "/grpc.health.v1.Health/Check"])
def test_bytes_that_are_no_message_are_invalid(garbage: bytes, method: str) -> None:
    async def scenario() -> grpc.aio.AioRpcError:
        async with scripted_server() as server:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await server.channel.unary_unary(method)(garbage)
            return caught.value

    error = asyncio.run(scenario())

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "not a valid message" in error.details()


def test_garbage_in_a_stream_of_requests_is_invalid() -> None:
    async def scenario() -> grpc.StatusCode:
        async with scripted_server() as server:
            method = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await server.channel.stream_stream(method)(iter([b"\xff\xff"])).read()
            return caught.value.code()

    assert asyncio.run(scenario()) is grpc.StatusCode.INVALID_ARGUMENT


def test_an_unknown_method_is_counted_under_one_name() -> None:
    async def scenario() -> tuple[grpc.StatusCode, list[tuple[str, str, str]]]:
        async with scripted_server() as server:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await server.channel.unary_unary("/scanner/Probe17")(b"")
            return caught.value.code(), server.counts.finished

    code, counted = asyncio.run(scenario())

    assert code is grpc.StatusCode.UNIMPLEMENTED
    assert counted == [("_OTHER", "UNIMPLEMENTED", "invalid")]


def test_a_method_that_a_service_leaves_out_is_unimplemented() -> None:
    async def scenario() -> grpc.StatusCode:
        async with scripted_server() as server:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await server.channel.unary_unary("/grpc.health.v1.Health/List")(b"")
            return caught.value.code()

    assert asyncio.run(scenario()) is grpc.StatusCode.UNIMPLEMENTED


class EndedCall:
    """The context of a call that its client has ended, so many seconds before the server would have."""

    def __init__(self, remaining: float | None) -> None:
        self._remaining = remaining

    def time_remaining(self) -> float | None:
        return self._remaining

    def trailing_metadata(self) -> None:
        """There is none yet."""


@pytest.mark.parametrize(
    ("remaining", "ended"),
    [
        (0.0, ("Generate", "DEADLINE_EXCEEDED", "timeout")),
        (0.002, ("Generate", "DEADLINE_EXCEEDED", "timeout")),
        (5.0, ("Generate", "CANCELLED", "cancelled")),
        (None, ("Generate", "CANCELLED", "cancelled")),
    ],
)
def test_time_that_ran_out_at_the_client_first_is_no_cancel(
    remaining: float | None, ended: tuple[str, str, str]
) -> None:
    counts = Counts()

    async def behaviour(*_: object) -> None:
        raise asyncio.CancelledError

    async def continuation(_: object) -> Any:
        return grpc.unary_unary_rpc_method_handler(behaviour)

    async def scenario() -> None:
        handler = await RpcGuard(counts).intercept_service(continuation, SimpleNamespace(method=GENERATE))
        with pytest.raises(asyncio.CancelledError):
            await handler.unary_unary(b"", EndedCall(remaining))

    asyncio.run(scenario())

    assert counts.finished == [ended]


def test_an_oversized_message_is_refused() -> None:
    async def scenario() -> grpc.StatusCode:
        async with scripted_server() as server:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(server, pb.GenerateRequest(prompt="a" * (1 << 20)))
            return caught.value.code()

    assert asyncio.run(scenario()) is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_client_that_falls_behind_by_too_many_events_is_given_up() -> None:
    events = [token(position) for position in range(9)]

    async def scenario() -> tuple[grpc.aio.AioRpcError, ScriptedServer]:
        async with scripted_server(*events, stream_buffer_events=8) as server:
            return await failure(server), server

    error, server = asyncio.run(scenario())

    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "reads too slowly" in error.details()
    assert server.counts.rejected == ["SLOW_READER"]
    assert len(server.engine.cancelled) == 1


def test_a_client_that_stops_reading_is_given_up_and_frees_its_place() -> None:
    """A client that reads nothing leaves about 4 MiB with the transport; then our own limit must act."""

    events = [readings(60_000) for _ in range(40)]

    async def scenario() -> tuple[grpc.StatusCode, list[str]]:
        async with scripted_server(*events, slow_reader_seconds=0.3) as server:
            stream = GenerationServiceStub(server.channel).Generate(REQUEST)
            async with asyncio.timeout(30):
                while not server.engine.cancelled:
                    await asyncio.sleep(0.02)
                try:
                    async for _ in stream:
                        pass
                except grpc.aio.AioRpcError as error:
                    return error.code(), server.counts.rejected
        raise AssertionError("the stream ended with OK")

    assert asyncio.run(scenario()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, ["SLOW_READER"])


def test_tokens_that_are_ready_together_share_a_message() -> None:
    events = [StartedEvent(0.0), *(token(position) for position in range(5)), finished()]

    async def scenario() -> tuple[list[pb.GenerateResponse], ScriptedServer]:
        async with scripted_server(*events) as server:
            return await call(server), server

    messages, server = asyncio.run(scenario())

    assert [message.WhichOneof("event") for message in messages] == ["started", "delta", "completed"]
    assert messages[1].delta.text == "xxxxx"
    assert (server.counts.messages, server.counts.coalesced) == (3, 4)


def test_a_large_capture_is_split_into_messages_that_fit() -> None:
    events = [*(readings(30_000) for _ in range(20)), finished()]

    async def scenario() -> list[tuple[int, int, int]]:
        async with scripted_server(*events) as server:
            messages = await call(server)
        return [(m.sequence, m.ByteSize(), len(m.delta.readings)) for m in messages]

    sequence, sizes, counts = zip(*asyncio.run(scenario()), strict=True)

    assert sequence == tuple(range(8))
    assert max(sizes) < 1 << 20
    assert sum(counts) == 20


def test_a_client_that_vanishes_is_counted_as_cancelled() -> None:
    async def scenario() -> tuple[list[tuple[str, str, str]], list[Submission]]:
        async with scripted_server() as server:
            async with grpc.aio.insecure_channel(server.address) as other:
                GenerationServiceStub(other).Generate(REQUEST)
                await server.engine.arrived.wait()
            async with asyncio.timeout(30):
                while not server.counts.finished:
                    await asyncio.sleep(0.02)
            return server.counts.finished, server.engine.cancelled

    counted, cancelled = asyncio.run(scenario())

    assert counted == [("Generate", "CANCELLED", "cancelled")]
    assert len(cancelled) == 1


def test_every_served_rpc_is_announced_and_every_start_has_an_end() -> None:
    async def scenario() -> ScriptedServer:
        async with scripted_server(finished()) as server:
            await call(server)
            await failure_of_unknown_sae(server)
            list_saes = server.channel.unary_unary("/steerd.v1.CatalogService/ListSaes")
            await list_saes(catalog_service_pb2.ListSaesRequest().SerializeToString())
            return server

    counts = asyncio.run(scenario()).counts

    announced = {f"{rpc.service}/{rpc.method}" for rpc in counts.served}
    studies = feature_service_pb2.DESCRIPTOR.services_by_name["FeatureService"].methods
    assert len(studies) >= 2
    assert announced == {
        *(f"steerd.v1.FeatureService/{method.name}" for method in studies),
        "steerd.v1.GenerationService/Generate",
        "steerd.v1.GenerationService/Score",
        "steerd.v1.CatalogService/GetServerInfo",
        "steerd.v1.CatalogService/ListSaes",
        "steerd.v1.CatalogService/ListPresets",
        "steerd.v1.MonitorService/WatchActivations",
        "steerd.v1.MonitorService/GetTopFeatures",
        "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        "grpc.health.v1.Health/Check",
        "grpc.health.v1.Health/List",
        "grpc.health.v1.Health/Watch",
        "_OTHER/_OTHER",
    }
    assert len(counts.started) == len(counts.finished) == 3
    assert sorted(counts.finished) == [
        ("Generate", "NOT_FOUND", "invalid"),
        ("Generate", "OK", "ok"),
        ("ListSaes", "OK", "ok"),
    ]


async def failure_of_unknown_sae(server: ScriptedServer) -> None:
    lost = pb.Capture(watch=[feature_pb2.FeatureRef(sae="lost")])
    with pytest.raises(grpc.aio.AioRpcError):
        await call(server, pb.GenerateRequest(prompt="a", capture=lost))


def test_one_line_is_logged_for_each_end_and_no_prompt(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with scripted_server(finished()) as server:
            await call(server, pb.GenerateRequest(prompt="confidential", request_id="first"))
            with pytest.raises(grpc.aio.AioRpcError):
                await call(server, pb.GenerateRequest(prompt="confidential", request_id="x\ny"))

    with caplog.at_level(logging.INFO, "steerd"):
        asyncio.run(scenario())

    lines = [record.getMessage() for record in caplog.records if record.name.startswith("steerd.server")]
    assert len(lines) == 2
    assert "id=first code=OK finish=length" in lines[0]
    assert "code=INVALID_ARGUMENT" in lines[1]
    assert "confidential" not in caplog.text
    assert "\n" not in lines[1]


def test_an_engine_may_refuse_a_request_as_invalid() -> None:
    async def scenario() -> grpc.StatusCode:
        async with scripted_server(refusal=InvalidRequest([])) as server:
            return (await failure(server)).code()

    assert asyncio.run(scenario()) is grpc.StatusCode.INVALID_ARGUMENT


def test_every_code_that_the_edge_answers_is_counted_by_its_name() -> None:
    answered = {*CODES.values(), grpc.StatusCode.OK, grpc.StatusCode.INTERNAL}
    answered |= {grpc.StatusCode.CANCELLED, grpc.StatusCode.UNIMPLEMENTED}

    assert {code.name for code in answered} <= set(STATUS_CODES)
