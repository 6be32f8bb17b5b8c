"""A small typed client of a steerd server, for the command line, the demo, the tests and the benchmarks.

Requests and replies are the dataclasses of `client_messages` and `client_views`; protobuf stays here and in
`client_wire` and `client_views_wire`. Every failure of a call is a RemoteError. Quick to import: neither
torch nor transformers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from steerd import client_views_wire, client_wire
from steerd.client_channel import DEFAULT_ADDRESS, failures, open_channel
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
from steerd.pb.v1 import (
    admin_service_pb2,
    admin_service_pb2_grpc,
    catalog_service_pb2,
    catalog_service_pb2_grpc,
    generation_service_pb2_grpc,
    monitor_service_pb2,
    monitor_service_pb2_grpc,
)


class Client:
    """A connection to one server. Use it as a context manager, from any number of threads.

    `timeout_seconds` bounds every call, a whole stream included; None waits as long as the server allows.
    """

    def __init__(self, address: str = DEFAULT_ADDRESS, *, timeout_seconds: float | None = None) -> None:
        self.address = address
        self._timeout = timeout_seconds
        self._channel = open_channel(address)
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
        with failures(self.address):
            reply = self._catalog.GetServerInfo(
                catalog_service_pb2.GetServerInfoRequest(), timeout=self._timeout
            )
        return client_views_wire.server_info(reply)

    def saes(self) -> list[ServedSae]:
        """The SAEs that the server has loaded; raises RemoteError."""
        with failures(self.address):
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
        with failures(self.address):
            for update in self._health.Watch(
                health_pb2.HealthCheckRequest(), timeout=timeout_seconds, wait_for_ready=True
            ):
                if update.status == health_pb2.HealthCheckResponse.SERVING:
                    return

    def stream(self, call: GenerateCall) -> Iterator[Event]:
        """The events of one generation, as they come. Closing the iterator cancels it; raises RemoteError."""
        with failures(self.address):
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
        with failures(self.address):
            reply = self._generation.Score(client_wire.score_request(call), timeout=self._timeout)
        return client_wire.scores(reply)

    def _prepared(self) -> catalog_service_pb2.ListPresetsResponse:
        request = catalog_service_pb2.ListPresetsRequest()
        with failures(self.address):
            return self._catalog.ListPresets(request, timeout=self._timeout)

    def watch_list(self) -> list[Watched]:
        """The features that the server exports as metrics; raises RemoteError."""
        with failures(self.address):
            reply = self._admin.GetWatchList(admin_service_pb2.GetWatchListRequest(), timeout=self._timeout)
        return [client_views_wire.watched(message) for message in reply.features]

    def set_watch_list(self, features: Sequence[Watched]) -> None:
        """Export these features, and no others, from the next step on; raises RemoteError."""
        messages = [client_views_wire.watched_message(watched) for watched in features]
        with failures(self.address):
            self._admin.SetWatchList(
                admin_service_pb2.SetWatchListRequest(features=messages), timeout=self._timeout
            )

    def reload_sae(self, name: str) -> ServedSae:
        """Have the server read a served SAE's folder anew; raises RemoteError when it cannot serve it."""
        with failures(self.address):
            reply = self._admin.ReloadSae(
                admin_service_pb2.ReloadSaeRequest(name=name), timeout=self._timeout
            )
        return client_views_wire.served_sae(reply.sae)

    def watch_activations(self, interval_ms: int = 1000) -> Iterator[ActivitySnapshot]:
        """What the watched features do, again and again until the iterator is closed; raises RemoteError."""
        request = monitor_service_pb2.WatchActivationsRequest(interval_ms=interval_ms)
        with failures(self.address):
            replies = self._monitor.WatchActivations(request, timeout=self._timeout)
            try:
                yield from map(client_views_wire.snapshot, replies)
            finally:
                replies.cancel()

    def top_features(self, seconds: int = 60, limit: int = 8) -> list[TopFeature]:
        """The features most above their usual strength, SAE by SAE; raises RemoteError."""
        request = monitor_service_pb2.GetTopFeaturesRequest(seconds=seconds, limit=limit)
        with failures(self.address):
            reply = self._monitor.GetTopFeatures(request, timeout=self._timeout)
        return [feature for sae in reply.saes for feature in client_views_wire.top_features(sae)]
