"""A server that has to try itself out first."""

from __future__ import annotations

import asyncio
import logging
import threading

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from torch import Tensor

from steerd.app import App
from steerd.config import EngineConfig, ServerConfig
from steerd.errors import SelftestFailed
from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel
from steerd.pb.v1 import generation_service_pb2 as pb
from steerd.pb.v1.catalog_service_pb2 import GetServerInfoRequest
from steerd.pb.v1.catalog_service_pb2_grpc import CatalogServiceStub
from steerd.pb.v1.generation_service_pb2_grpc import GenerationServiceStub
from tests.server.running_server import TIMEOUT_SECONDS, tiny_config, tiny_parts
from tests.server.test_edge_table import error_info

CONFIG = tiny_config(
    engine=EngineConfig(kv_cache_gib=0.01, page_size=8),
    server=ServerConfig(port=0, require_selftest=True),
)


class OffWhenPaged:
    """Makes a host a little wrong as soon as an engine has taken it over, less than its own check minds."""

    def __init__(self, host: HostModel) -> None:
        self._config = host.model.config
        self._plain = self._config._attn_implementation

    def __call__(self, rows: Tensor) -> Tensor | None:
        return None if self._config._attn_implementation == self._plain else rows * 1.004


def test_a_server_that_fails_its_selftest_does_not_start(caplog: pytest.LogCaptureFixture) -> None:
    host, saes = tiny_parts()
    host.attach(HookPoint(1, "attn_out"), OffWhenPaged(host))

    async def start() -> None:
        app = App(CONFIG)
        try:
            await app.start(host, saes)
        finally:
            await app.stop()

    with caplog.at_level(logging.INFO, logger="steerd"), pytest.raises(SelftestFailed) as caught:
        asyncio.run(start())

    assert "unsteered = plain host" in str(caught.value)
    assert "no-op" not in str(caught.value)
    (table,) = (record.getMessage() for record in caplog.records if record.levelname == "ERROR")
    assert "unsteered = plain host" in table
    assert "batch isolation" in table
    assert not any("serving" in record.getMessage() for record in caplog.records)


class Gate:
    """Holds the selftest up in the first forward that it makes: in the second thread that makes any, as the
    first measures norms."""

    def __init__(self) -> None:
        self.measuring: threading.Thread | None = None
        self.reached = threading.Event()
        self.opened = threading.Event()

    def __call__(self, rows: Tensor) -> None:
        del rows
        self.measuring = self.measuring or threading.current_thread()
        if threading.current_thread() is not self.measuring:
            self.reached.set()
            assert self.opened.wait(TIMEOUT_SECONDS)


async def health(channel: grpc.aio.Channel, service: str = "") -> int:
    """The status of a service, or of the whole server."""
    request = health_pb2.HealthCheckRequest(service=service)
    answer = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=TIMEOUT_SECONDS)
    return int(answer.status)


async def assert_starting(channel: grpc.aio.Channel) -> None:
    """It says that it does not serve yet, whatever it is asked."""
    serving = health_pb2.HealthCheckResponse
    assert await health(channel) == serving.NOT_SERVING
    assert await health(channel, "steerd.v1.GenerationService") == serving.NOT_SERVING
    stream = GenerationServiceStub(channel).Generate(pb.GenerateRequest(prompt="a"), timeout=TIMEOUT_SECONDS)
    info = CatalogServiceStub(channel).GetServerInfo(GetServerInfoRequest(), timeout=TIMEOUT_SECONDS)
    for call in (stream.read(), info):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "its selftest runs" in str(caught.value.details())
        assert error_info(caught.value).reason == "STARTING"


def test_health_is_not_serving_until_the_selftest_has_passed() -> None:
    host, saes = tiny_parts()
    gate = Gate()
    hook = host.attach(HookPoint(0, "resid_post"), gate)

    async def serve() -> str:
        app = App(CONFIG)
        starting = asyncio.create_task(app.start(host, saes))
        try:
            assert await asyncio.to_thread(gate.reached.wait, TIMEOUT_SECONDS)
            async with grpc.aio.insecure_channel(f"127.0.0.1:{app.grpc.port}") as channel:
                await assert_starting(channel)
                hook.remove()
                gate.opened.set()
                await starting
                assert await health(channel) == health_pb2.HealthCheckResponse.SERVING
                info = CatalogServiceStub(channel).GetServerInfo(GetServerInfoRequest())
                return str((await info).model.name)
        finally:
            gate.opened.set()
            await app.stop()

    assert asyncio.run(serve()) == host.name
