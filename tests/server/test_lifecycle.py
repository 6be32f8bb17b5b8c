"""What ends a request early, and how a server starts and stops."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from steerd.config import EngineConfig, LimitsConfig, MonitoringConfig, ServerConfig
from steerd.errors import ConfigError
from steerd.pb.v1 import generation_service_pb2 as pb
from tests.server.running_server import (
    TIMEOUT_SECONDS,
    RunningServer,
    tiny_config,
    tiny_parts,
)
from tests.waiting import wait_until

# Greedily, the tiny host goes on from this prompt for thousands of tokens.
ENDLESS = pb.GenerateRequest(prompt="xyz", sampling=pb.SamplingParams(max_new_tokens=50_000))
SHORT = pb.GenerateRequest(prompt="xyz", sampling=pb.SamplingParams(max_new_tokens=3))


def make_server(**server: object) -> RunningServer:
    """One place to run in, one to wait in, and a context that takes minutes to fill."""
    config = tiny_config(
        engine=EngineConfig(kv_cache_gib=0.1, max_running_requests=1, max_waiting_requests=1),
        limits=LimitsConfig(max_new_tokens=100_000),
        server=ServerConfig(port=0, **server),  # type: ignore[arg-type]
    )
    return RunningServer(config, *tiny_parts(max_position_embeddings=100_000))


@pytest.fixture(scope="module")
def small_server() -> Iterator[RunningServer]:
    with make_server() as running:
        yield running


def test_a_cancel_frees_the_place(small_server: RunningServer) -> None:
    call = small_server.generation.Generate(ENDLESS)
    wait_for_tokens(call)

    call.cancel()

    assert small_server.generate(SHORT).completed.usage.generated_tokens == 3
    wait_until(lambda: is_idle(small_server))


def test_a_cancel_in_the_waiting_line_is_obeyed(small_server: RunningServer) -> None:
    running = small_server.generation.Generate(ENDLESS)
    wait_for_tokens(running)
    waiting = small_server.generation.Generate(ENDLESS)
    wait_until(lambda: small_server.total("steerd_requests_waiting") == 1)

    waiting.cancel()

    wait_until(lambda: small_server.total("steerd_requests_waiting") == 0)
    assert small_server.total("steerd_requests_running") == 1
    running.cancel()
    wait_until(lambda: is_idle(small_server))


def test_a_deadline_frees_the_place(small_server: RunningServer) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        list(small_server.generation.Generate(ENDLESS, timeout=0.5))

    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    wait_until(lambda: is_idle(small_server))
    wait_until(lambda: small_server.total("steerd_requests_total", outcome="timeout") == 1)


def test_a_full_line_is_refused_with_a_time_to_retry(small_server: RunningServer) -> None:
    running = small_server.generation.Generate(ENDLESS)
    waiting = small_server.generation.Generate(ENDLESS)
    running.initial_metadata()  # both were admitted
    waiting.initial_metadata()

    with pytest.raises(grpc.RpcError) as caught:
        small_server.generate(SHORT)

    error = caught.value
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    details = {packed.TypeName(): packed for packed in rpc_status.from_call(error).details}
    retry, info = error_details_pb2.RetryInfo(), error_details_pb2.ErrorInfo()
    assert details["google.rpc.RetryInfo"].Unpack(retry)
    assert details["google.rpc.ErrorInfo"].Unpack(info)
    assert info.reason == "QUEUE_FULL"
    trailers = dict(error.trailing_metadata())
    assert int(trailers["grpc-retry-pushback-ms"]) == retry.retry_delay.ToMilliseconds() > 0
    assert trailers["steerd-request-id"]
    assert small_server.total("steerd_requests_rejected_total", reason="queue_full") == 1
    running.cancel()
    waiting.cancel()
    wait_until(lambda: is_idle(small_server))


def test_health_answers_while_the_line_is_full(small_server: RunningServer) -> None:
    calls = [small_server.generation.Generate(ENDLESS) for _ in range(2)]
    for call in calls:
        call.initial_metadata()

    assert small_server.health() == "SERVING"

    for call in calls:
        call.cancel()
    wait_until(lambda: is_idle(small_server))


def test_an_id_in_use_is_refused(small_server: RunningServer) -> None:
    named = pb.GenerateRequest(request_id="mine", prompt="xyz", sampling=ENDLESS.sampling)
    call = small_server.generation.Generate(named)
    call.initial_metadata()

    with pytest.raises(grpc.RpcError) as caught:
        small_server.generate(named)

    assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS
    assert "'mine'" in caught.value.details()
    call.cancel()
    wait_until(lambda: is_idle(small_server))


def test_many_cancels_at_any_moment_leave_nothing_behind(small_server: RunningServer) -> None:
    def start_and_cancel(delay: float) -> None:
        call = small_server.generation.Generate(ENDLESS)
        threading.Timer(delay, call.cancel).start()
        with pytest.raises(grpc.RpcError):
            list(call)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(start_and_cancel, [i / 1000 for i in range(64)]))

    wait_until(lambda: is_idle(small_server))
    assert small_server.generate(SHORT).completed.usage.generated_tokens == 3


def test_the_server_ends_requests_that_take_too_long() -> None:
    with make_server(max_request_seconds=0.5) as server:
        with pytest.raises(grpc.RpcError) as caught:
            server.generate(ENDLESS)

        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "0.5 seconds" in caught.value.details()
        wait_until(lambda: is_idle(server))


def test_a_drain_finishes_what_runs_and_refuses_what_is_new() -> None:
    with make_server() as server:
        call = server.generation.Generate(
            pb.GenerateRequest(prompt="xyz", sampling=pb.SamplingParams(max_new_tokens=150))
        )
        first = next(call)

        drained = server.begin(server.app.grpc.drain(TIMEOUT_SECONDS))
        wait_until(lambda: server.health() == "NOT_SERVING")
        with pytest.raises(grpc.RpcError) as caught:
            server.generate(SHORT)
        rest = list(call)

        assert first.HasField("started")
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert rest[-1].completed.usage.generated_tokens == 150
        assert drained.result(TIMEOUT_SECONDS) is True
        assert server.total("steerd_requests_rejected_total", reason="draining") == 1


def test_what_outlasts_the_drain_ends_unavailable() -> None:
    with make_server() as server:
        call = server.generation.Generate(ENDLESS)
        wait_for_tokens(call)

        assert server.run(server.app.grpc.drain(0.01)) is False
        stopped = server.begin(server.app.stop())
        with pytest.raises(grpc.RpcError) as caught:
            list(call)

        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        stopped.result(TIMEOUT_SECONDS)


def test_a_dead_engine_is_not_serving() -> None:
    with make_server() as server:
        assert server.health() == "SERVING"
        watch = health_pb2_grpc.HealthStub(server.channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING

        server.app.engine.stop()

        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert server.health("steerd.v1.GenerationService") == "NOT_SERVING"
        with pytest.raises(grpc.RpcError) as caught:
            server.generate(SHORT)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        watch.cancel()


def test_two_servers_cannot_share_a_port(small_server: RunningServer) -> None:
    port = small_server.app.grpc.port
    second = tiny_config(server=ServerConfig(port=port))

    with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}"):
        RunningServer(second, *tiny_parts()).__enter__()


def test_the_port_of_metrics_cannot_be_shared_either(small_server: RunningServer) -> None:
    port = small_server.app.scrape_endpoint.port
    second = tiny_config(monitoring=MonitoringConfig(port=port))

    with pytest.raises(ConfigError, match=f"cannot serve metrics on 127.0.0.1:{port}"):
        RunningServer(second, *tiny_parts()).__enter__()


def test_an_address_of_another_machine_cannot_be_bound() -> None:
    elsewhere = tiny_config(server=ServerConfig(host="192.0.2.1", port=0, insecure=True))

    with pytest.raises(
        ConfigError, match=r"cannot listen on 192\.0\.2\.1:0: Cannot assign requested address"
    ):
        RunningServer(elsewhere, *tiny_parts()).__enter__()


def test_all_interfaces_are_served_when_that_is_asked_for() -> None:
    with make_server(host="0.0.0.0", insecure=True) as server:
        assert server.generate(SHORT).completed.usage.generated_tokens == 3


def wait_for_tokens(call: Iterator[pb.GenerateResponse]) -> None:
    assert next(message for message in call if message.HasField("delta"))


def is_idle(server: RunningServer) -> bool:
    return server.total("steerd_requests_running") + server.total("steerd_requests_waiting") == 0
