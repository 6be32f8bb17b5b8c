"""A small typed client of a steerd server, for the command line, the demo, the tests and the benchmarks.

Requests and replies are the dataclasses of `client_messages` and `client_views`; protobuf stays here and in
`client_wire` and `client_views_wire`. Every
failure of a call is a RemoteError. Quick to import: neither torch nor transformers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from steerd import client_views_wire, client_wire
from steerd.client_messages import Event, GenerateCall, Generation, ScoreCall, Scores, collect
from steerd.client_views import (
    ActivitySnapshot,
    ServedPolicy,
    ServedPreset,
    ServedSae,
    ServerInfo,
    TopFeature,
    Watched,
)
from steerd.errors import SteerdError
from steerd.pb.v1 import (
    admin_service_pb2,
    admin_service_pb2_grpc,
    catalog_service_pb2,
    catalog_service_pb2_grpc,
    generation_service_pb2_grpc,
    monitor_service_pb2,
    monitor_service_pb2_grpc,
)

DEFAULT_ADDRESS = "127.0.0.1:50051"

_CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", 16 * 2**20),
    # A server that is just starting is found within a second; gRPC's own back-off grows to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


class RemoteError(SteerdError):
    """A call that failed: gRPC's code, the server's reason and message, and when a retry may help."""

    def __init__(self, message: str, *, code: str, reason: str, retry_after_seconds: float | None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.retry_after_seconds = retry_after_seconds


class Client:
    """A connection to one server. Use it as a context manager, from any number of threads.

    `timeout_seconds` bounds every call, a whole stream included; None waits as long as the server allows.
    """

    def __init__(self, address: str = DEFAULT_ADDRESS, *, timeout_seconds: float | None = None) -> None:
        self.address = address
        self._timeout = timeout_seconds
        self._channel = grpc.insecure_channel(address, options=_CHANNEL_OPTIONS)
        self._generation = generation_service_pb2_grpc.GenerationServiceStub(self._channel)
        self._catalog = catalog_service_pb2_grpc.CatalogServiceStub(self._channel)
        self._admin = admin_service_pb2_grpc.AdminServiceStub(self._channel)
        self._monitor = monitor_service_pb2_grpc.MonitorServiceStub(self._channel)
        self._health = health_pb2_grpc.HealthStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every call that runs and hang up."""
        self._channel.close()

    def server_info(self) -> ServerInfo:
        """What this server is; raises RemoteError."""
        with self._failures():
            reply = self._catalog.GetServerInfo(
                catalog_service_pb2.GetServerInfoRequest(), timeout=self._timeout
            )
        return client_views_wire.server_info(reply)

    def saes(self) -> list[ServedSae]:
        """The SAEs that the server has loaded; raises RemoteError."""
        with self._failures():
            reply = self._catalog.ListSaes(catalog_service_pb2.ListSaesRequest(), timeout=self._timeout)
        return [client_views_wire.served_sae(sae) for sae in reply.saes]

    def presets(self) -> list[ServedPreset]:
        """The presets that requests can name; raises RemoteError."""
        return [client_views_wire.served_preset(preset) for preset in self._prepared().presets]

    def policies(self) -> list[ServedPolicy]:
        """What holds for every request; raises RemoteError."""
        return [client_views_wire.served_policy(policy) for policy in self._prepared().policies]

    def is_serving(self, service: str = "") -> bool:
        """Whether the server says that it serves; False when it does not answer."""
        request = health_pb2.HealthCheckRequest(service=service)
        try:
            status = self._health.Check(request, timeout=self._timeout).status
        except grpc.RpcError:
            return False
        return bool(status == health_pb2.HealthCheckResponse.SERVING)

    def wait_until_serving(self, timeout_seconds: float) -> None:
        """Return when the server says that it serves; raises RemoteError after the timeout."""
        with self._failures():
            for update in self._health.Watch(
                health_pb2.HealthCheckRequest(), timeout=timeout_seconds, wait_for_ready=True
            ):
                if update.status == health_pb2.HealthCheckResponse.SERVING:
                    return

    def stream(self, call: GenerateCall) -> Iterator[Event]:
        """The events of one generation, as they come. Closing the iterator cancels it; raises RemoteError."""
        with self._failures():
            replies = self._generation.Generate(client_wire.request(call), timeout=self._timeout)
            try:
                yield from map(client_wire.event, replies)
            finally:
                replies.cancel()

    def generate(self, call: GenerateCall) -> Generation:
        """One generation as a whole; raises RemoteError."""
        return collect(self.stream(call))

    def score(self, call: ScoreCall) -> Scores:
        """How likely the continuations are, in their order; raises RemoteError."""
        with self._failures():
            reply = self._generation.Score(client_wire.score_request(call), timeout=self._timeout)
        return client_wire.scores(reply)

    def _prepared(self) -> catalog_service_pb2.ListPresetsResponse:
        request = catalog_service_pb2.ListPresetsRequest()
        with self._failures():
            return self._catalog.ListPresets(request, timeout=self._timeout)

    def watch_list(self) -> list[Watched]:
        """The features that the server exports as metrics; raises RemoteError."""
        with self._failures():
            reply = self._admin.GetWatchList(admin_service_pb2.GetWatchListRequest(), timeout=self._timeout)
        return [client_views_wire.watched(message) for message in reply.features]

    def set_watch_list(self, features: Sequence[Watched]) -> None:
        """Export these features, and no others, from the next step on; raises RemoteError."""
        messages = [client_views_wire.watched_message(watched) for watched in features]
        with self._failures():
            self._admin.SetWatchList(
                admin_service_pb2.SetWatchListRequest(features=messages), timeout=self._timeout
            )

    def watch_activations(self, interval_ms: int = 1000) -> Iterator[ActivitySnapshot]:
        """What the watched features do, again and again until the iterator is closed; raises RemoteError."""
        request = monitor_service_pb2.WatchActivationsRequest(interval_ms=interval_ms)
        with self._failures():
            replies = self._monitor.WatchActivations(request, timeout=self._timeout)
            try:
                yield from map(client_views_wire.snapshot, replies)
            finally:
                replies.cancel()

    def top_features(self, seconds: int = 60, limit: int = 8) -> list[TopFeature]:
        """The features most above their usual strength, SAE by SAE; raises RemoteError."""
        request = monitor_service_pb2.GetTopFeaturesRequest(seconds=seconds, limit=limit)
        with self._failures():
            reply = self._monitor.GetTopFeatures(request, timeout=self._timeout)
        return [feature for sae in reply.saes for feature in client_views_wire.top_features(sae)]

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise _remote_error(error, self.address) from error


def _remote_error(error: grpc.RpcError, address: str) -> RemoteError:
    """The server's own words where it sent any; gRPC's otherwise."""
    code = error.code().name
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    status = rpc_status.from_call(error) or status_pb2.Status(message=error.details() or "no details")
    for detail in status.details:
        _ = detail.Unpack(info) or detail.Unpack(retry)
    wait = retry.retry_delay.ToTimedelta().total_seconds() if retry.HasField("retry_delay") else None
    where = f" (no server at {address}?)" if code == "UNAVAILABLE" and not info.reason else ""
    return RemoteError(
        f"{status.message}{where}", code=code, reason=info.reason or code, retry_after_seconds=wait
    )
