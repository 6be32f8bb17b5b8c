"""The gRPC server: bind, health, reflection, drain."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterable
from typing import cast

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection

from steerd.config import ServerConfig
from steerd.errors import ConfigError
from steerd.pb.v1 import (
    admin_service_pb2,
    catalog_service_pb2,
    feature_service_pb2,
    generation_service_pb2,
    monitor_service_pb2,
)
from steerd.pb.v1.admin_service_pb2_grpc import AdminServiceServicer, add_AdminServiceServicer_to_server
from steerd.pb.v1.catalog_service_pb2_grpc import CatalogServiceServicer, add_CatalogServiceServicer_to_server
from steerd.pb.v1.feature_service_pb2_grpc import FeatureServiceServicer, add_FeatureServiceServicer_to_server
from steerd.pb.v1.generation_service_pb2_grpc import (
    GenerationServiceServicer,
    add_GenerationServiceServicer_to_server,
)
from steerd.pb.v1.monitor_service_pb2_grpc import MonitorServiceServicer, add_MonitorServiceServicer_to_server
from steerd.server.admission import Admission
from steerd.server.edge_observer import REFLECTION_RPC, UNKNOWN_RPC, EdgeObserver, Rpc
from steerd.server.late_services import LateServices
from steerd.server.rpc_guard import RpcGuard

_FILES = (
    generation_service_pb2.DESCRIPTOR,
    feature_service_pb2.DESCRIPTOR,
    catalog_service_pb2.DESCRIPTOR,
    monitor_service_pb2.DESCRIPTOR,
)
_ADMIN_FILES = (admin_service_pb2.DESCRIPTOR,)

_HEALTH_CHECK_SECONDS = 0.5
_OPTIONS = (
    # Empty sub-messages take eighteen times their bytes in memory.
    ("grpc.max_receive_message_length", 1 << 20),
    ("grpc.max_send_message_length", 4 << 20),
    ("grpc.max_concurrent_streams", 64),
    ("grpc.max_allowed_incoming_connections", 512),
    # Connections end now and then so that balancers can spread clients anew; calls have the grace to finish.
    ("grpc.max_connection_age_ms", 60 * 60 * 1000),
    ("grpc.max_connection_age_grace_ms", 15 * 60 * 1000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    # With the default, 1, a second server binds the same port and takes half of the calls.
    ("grpc.so_reuseport", 0),
)


class GrpcServer:
    """Binds when made; serves from `start` to `stop`, and may `begin` before. Belongs to one event loop."""

    def __init__(self, config: ServerConfig, observer: EdgeObserver) -> None:
        """Raises ConfigError when the address cannot be bound."""
        self._config = config
        self._observer = observer
        files = (*_FILES, *(_ADMIN_FILES if config.serves_admin else ()))
        described = tuple(service for file in files for service in file.services_by_name.values())
        self._service_names = tuple(service.full_name for service in described)
        self._services = LateServices(described)
        self._is_open = False
        self.admission = Admission()
        self._server = grpc.aio.server(interceptors=[RpcGuard(observer)], options=_OPTIONS)
        self._server.add_generic_rpc_handlers((self._services,))
        self.port = self._bind()
        self._health = health_aio.HealthServicer()
        self._health_task: asyncio.Task[None] | None = None
        self._announce_rpcs((*described, *health_pb2.DESCRIPTOR.services_by_name.values()))

    async def begin(self) -> None:
        """Answer already: health with NOT_SERVING, and all that `start` brings with UNAVAILABLE."""
        await self._tell_health(False)
        await self._open()

    async def start(
        self,
        generation: GenerationServiceServicer,
        catalog: CatalogServiceServicer,
        *,
        feature: FeatureServiceServicer,
        monitor: MonitorServiceServicer,
        admin: AdminServiceServicer | None = None,
        is_healthy: Callable[[], bool],
    ) -> None:
        """Serve; health is SERVING for as long as `is_healthy` says so. `admin` where that is on."""
        services = cast(grpc.aio.Server, self._services)  # all that generated code asks of one
        add_GenerationServiceServicer_to_server(generation, services)
        add_FeatureServiceServicer_to_server(feature, services)
        add_CatalogServiceServicer_to_server(catalog, services)
        add_MonitorServiceServicer_to_server(monitor, services)
        if self._config.serves_admin and admin is not None:
            add_AdminServiceServicer_to_server(admin, services)
        await self._tell_health(is_healthy())
        if not self._is_open:
            await self._open()
        self._health_task = asyncio.create_task(self._watch_health(is_healthy))

    async def drain(self, timeout_seconds: float) -> bool:
        """Say NOT_SERVING, refuse new requests, wait for those in flight; False when time ran out first."""
        await self._health.enter_graceful_shutdown()
        return await self.admission.drain(timeout_seconds)

    async def stop(self) -> None:
        """End whatever is left with UNAVAILABLE."""
        if self._health_task is not None:
            self._health_task.cancel()
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace=0)

    async def _open(self) -> None:
        self._is_open = True
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (*self._service_names, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name)
        reflection.enable_server_reflection((*names, reflection.SERVICE_NAME), self._server)
        await self._server.start()

    def _bind(self) -> int:
        host, port = self._config.host, self._config.port
        is_v6 = ":" in host
        address = f"[{host}]:{port}" if is_v6 else f"{host}:{port}"
        try:
            # grpc says neither what is wrong nor keeps quiet about it, so the address is tried first.
            socket.create_server((host, port), family=socket.AF_INET6 if is_v6 else socket.AF_INET).close()
            return self._server.add_insecure_port(address)
        except OSError as error:
            problem = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
            raise ConfigError(f"cannot listen on {address}: {problem}") from error

    def _announce_rpcs(self, services: Iterable[ServiceDescriptor]) -> None:
        for service in services:
            for method in service.methods:
                kind = "server_stream" if method.server_streaming else "unary"
                self._observer.rpc_served(Rpc(kind, service.full_name, method.name))
        self._observer.rpc_served(REFLECTION_RPC)
        self._observer.rpc_served(UNKNOWN_RPC)

    async def _watch_health(self, is_healthy: Callable[[], bool]) -> None:
        while True:
            await asyncio.sleep(_HEALTH_CHECK_SECONDS)
            await self._tell_health(is_healthy())

    async def _tell_health(self, healthy: bool) -> None:
        statuses = health_pb2.HealthCheckResponse
        for name in ("", *self._service_names):
            await self._health.set(name, statuses.SERVING if healthy else statuses.NOT_SERVING)
