"""A real server on free loopback ports, in a thread of this process, with a tiny host."""

from __future__ import annotations

import asyncio
import threading
import urllib.request
from concurrent.futures import Future
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from steerd.app import App
from steerd.config import Config, EngineConfig, MonitoringConfig, SaeConfig, ServerConfig
from steerd.host.host_model import HostModel
from steerd.pb.v1 import generation_service_pb2 as pb
from steerd.pb.v1.admin_service_pb2_grpc import AdminServiceStub
from steerd.pb.v1.catalog_service_pb2_grpc import CatalogServiceStub
from steerd.pb.v1.feature_service_pb2_grpc import FeatureServiceStub
from steerd.pb.v1.generation_service_pb2_grpc import GenerationServiceStub
from steerd.pb.v1.monitor_service_pb2_grpc import MonitorServiceStub
from steerd.steering.loaded_saes import LoadedSaes
from tests.tiny_hosts import make_tiny_host
from tests.tiny_saes import tiny_sae

TIMEOUT_SECONDS = 60.0
SAES = ("early", "late")


def tiny_config(**sections: Any) -> Config:
    """Two SAEs, any free port, and the sections that a test sets."""
    defaults: dict[str, Any] = {
        "saes": tuple(SaeConfig(name=name, path="in memory") for name in SAES),
        "engine": EngineConfig(kv_cache_gib=0.01),
        "server": ServerConfig(port=0),
        "monitoring": MonitoringConfig(port=0, sample_every=1, request_log="off"),
    }
    return Config(**(defaults | sections))


def tiny_parts(**overrides: Any) -> tuple[HostModel, LoadedSaes]:
    """A tiny host of its own, as an engine takes its host over, with two SAEs."""
    host = make_tiny_host("llama", **overrides)
    saes = LoadedSaes(host)
    saes.add("early", tiny_sae(host, "blocks.0.hook_resid_post", seed=1))
    saes.add("late", tiny_sae(host, "blocks.2.hook_resid_post", seed=2))
    saes.measure_norms()
    return host, saes


class RunningServer:
    """Use it as a context manager; it serves inside the block."""

    def __init__(self, config: Config, host: HostModel, saes: LoadedSaes) -> None:
        self.config = _naming(config, saes)
        self.host = host
        self.saes = saes

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        try:
            self.app = self.run(self._start())
        except BaseException:
            self._end_loop()
            raise
        self.channel = grpc.insecure_channel(self.address)
        self.generation = GenerationServiceStub(self.channel)
        self.catalog = CatalogServiceStub(self.channel)
        self.admin = AdminServiceStub(self.channel)
        self.monitor = MonitorServiceStub(self.channel)
        self.features = FeatureServiceStub(self.channel)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.channel.close()
        self.run(self.app.stop())
        self._end_loop()

    async def _start(self) -> App:
        app = App(self.config)
        await app.start(self.host, self.saes)
        return app

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.app.grpc.port}"

    def run(self, coroutine: Any) -> Any:
        """Run a coroutine on the server's loop and wait for it."""
        return self.begin(coroutine).result(TIMEOUT_SECONDS)

    def begin(self, coroutine: Any) -> Future[Any]:
        """Run a coroutine on the server's loop without waiting."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def generate(self, request: pb.GenerateRequest) -> Generated:
        """Run one request to its end."""
        call = self.generation.Generate(request, timeout=TIMEOUT_SECONDS)
        return Generated(list(call), dict(call.trailing_metadata()))

    def health(self, service: str = "") -> str:
        reply = health_pb2_grpc.HealthStub(self.channel).Check(
            health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT_SECONDS
        )
        return health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)

    def scrape(self, accept: str = "text/plain") -> str:
        url = f"http://127.0.0.1:{self.app.scrape_endpoint.port}/metrics"
        request = urllib.request.Request(url, headers={"Accept": accept})
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as reply:
            return str(reply.read().decode())

    def samples(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """Every sample of a scrape, by name and labels."""
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(self.scrape())
            for sample in family.samples
        }

    def total(self, name: str, **labels: str) -> float:
        """The sum of the samples of that name that have these labels."""
        wanted = labels.items()
        return sum(v for (n, found), v in self.samples().items() if n == name and wanted <= found)


def _naming(config: Config, saes: LoadedSaes) -> Config:
    """The config with the SAEs that it does not name and a test serves all the same."""
    named = {sae.name for sae in config.saes}
    others = tuple(SaeConfig(name=sae.name, path="in memory") for sae in saes if sae.name not in named)
    return replace(config, saes=(*config.saes, *others))


@dataclass(frozen=True)
class Generated:
    """A finished stream."""

    messages: list[pb.GenerateResponse]
    trailers: dict[str, str | bytes]

    @property
    def started(self) -> pb.Started:
        return self.messages[0].started

    @property
    def completed(self) -> pb.Completed:
        return self.messages[-1].completed

    @property
    def deltas(self) -> list[pb.Delta]:
        return [message.delta for message in self.messages if message.HasField("delta")]

    @property
    def text(self) -> str:
        return "".join(delta.text for delta in self.deltas)

    @property
    def token_ids(self) -> list[int]:
        return [token_id for delta in self.deltas for token_id in delta.token_ids]

    @property
    def readings(self) -> list[pb.TokenReading]:
        return [reading for delta in self.deltas for reading in delta.readings]
