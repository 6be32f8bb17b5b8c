"""AdminService: what an operator changes while the server runs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import grpc

from steerd.config import WatchedFeature
from steerd.pb.v1 import admin_service_pb2 as pb
from steerd.pb.v1 import catalog_service_pb2, feature_pb2
from steerd.pb.v1.admin_service_pb2_grpc import AdminServiceServicer
from steerd.server.sae_message import sae_message
from steerd.server.sae_reloader import SaeReloader
from steerd.server.served import Serving
from steerd.server.watch_keeper import WatchKeeper

GetContext = grpc.aio.ServicerContext[pb.GetWatchListRequest, pb.GetWatchListResponse]
SetContext = grpc.aio.ServicerContext[pb.SetWatchListRequest, pb.SetWatchListResponse]
ReloadContext = grpc.aio.ServicerContext[pb.ReloadSaeRequest, pb.ReloadSaeResponse]


class AdminService(AdminServiceServicer):
    """Changes the watch list and reloads SAEs."""

    def __init__(self, watch: WatchKeeper, reloader: SaeReloader, serving: Serving) -> None:
        self._watch = watch
        self._reloader = reloader
        self._serving = serving

    async def GetWatchList(
        self,
        request: pb.GetWatchListRequest,  # noqa: ARG002  # it is empty
        context: GetContext,  # noqa: ARG002
    ) -> pb.GetWatchListResponse:
        return pb.GetWatchListResponse(features=watched_messages(self._watch.current.features))

    async def SetWatchList(
        self,
        request: pb.SetWatchListRequest,
        context: SetContext,  # noqa: ARG002
    ) -> pb.SetWatchListResponse:
        features = [_watched(message) for message in request.features]
        await asyncio.to_thread(self._watch.change, features)  # it counts series and may write a file
        return pb.SetWatchListResponse(features=watched_messages(features))

    async def ReloadSae(
        self,
        request: pb.ReloadSaeRequest,
        context: ReloadContext,  # noqa: ARG002
    ) -> pb.ReloadSaeResponse:
        loaded = await self._reloader.reload(request.name)
        return pb.ReloadSaeResponse(sae=sae_message(loaded, self._serving.now.saes))


def watched_messages(features: Sequence[WatchedFeature]) -> list[catalog_service_pb2.WatchedFeature]:
    """A watch list on the wire."""
    return [
        catalog_service_pb2.WatchedFeature(
            feature=feature_pb2.FeatureRef(sae=watched.sae, index=watched.index),
            alias=watched.alias,
            threshold=watched.threshold,
            hot=watched.hot,
        )
        for watched in features
    ]


def _watched(message: catalog_service_pb2.WatchedFeature) -> WatchedFeature:
    return WatchedFeature(
        sae=message.feature.sae,
        index=message.feature.index,
        alias=message.alias,
        threshold=message.threshold,
        hot=message.hot,
    )
