"""MonitorService: what features do now."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import grpc

from steerd.engine.watch_list import WatchList
from steerd.errors import FieldViolation, InvalidRequest
from steerd.monitoring.activity import Activity, ActivitySnapshot
from steerd.monitoring.top_features import TOP_FEATURES, TOP_SECONDS, TopFeatures
from steerd.pb.v1 import feature_pb2
from steerd.pb.v1 import monitor_service_pb2 as pb
from steerd.pb.v1.monitor_service_pb2_grpc import MonitorServiceServicer
from steerd.sae.feature_label import FeatureLabel
from steerd.study_wire.label import score_message

WatchContext = grpc.aio.ServicerContext[pb.WatchActivationsRequest, pb.WatchActivationsResponse]
TopContext = grpc.aio.ServicerContext[pb.GetTopFeaturesRequest, pb.GetTopFeaturesResponse]

_INTERVAL_MS = 1000
_MOST_FEATURES = 100


class MonitorService(MonitorServiceServicer):
    """Reads what the monitor keeps; what a slow client does not read is summed up, not stored."""

    def __init__(
        self,
        activity: Activity,
        top: TopFeatures,
        *,
        watch: Callable[[], WatchList],
        snapshots_lost: Callable[[int], None],
    ) -> None:
        """`watch` gives the present list, `snapshots_lost` counts messages that were left out."""
        self._activity = activity
        self._top = top
        self._watch = watch
        self._snapshots_lost = snapshots_lost

    async def WatchActivations(
        self,
        request: pb.WatchActivationsRequest,
        context: WatchContext,  # noqa: ARG002
    ) -> AsyncIterator[pb.WatchActivationsResponse]:
        interval = _within("interval_ms", request.interval_ms or _INTERVAL_MS, 100, 60_000) / 1000
        loop = asyncio.get_running_loop()
        with self._activity.watching(self._watch()) as watcher:
            due, lost = loop.time() + interval, 0
            while True:
                await asyncio.sleep(due - loop.time())
                yield _message(watcher.take(), lost)
                lost = max(int((loop.time() - due) / interval), 0)
                due += (lost + 1) * interval
                if lost:
                    self._snapshots_lost(lost)

    async def GetTopFeatures(
        self,
        request: pb.GetTopFeaturesRequest,
        context: TopContext,  # noqa: ARG002
    ) -> pb.GetTopFeaturesResponse:
        seconds = _within("seconds", request.seconds or int(TOP_SECONDS), 1, int(TOP_SECONDS))
        limit = _within("limit", request.limit or TOP_FEATURES, 1, _MOST_FEATURES)
        found = await asyncio.to_thread(self._top.top, seconds=seconds, limit=limit)
        return pb.GetTopFeaturesResponse(
            saes=[
                pb.TopFeatures(
                    sae=sae,
                    sampled_tokens=tokens,
                    features=[
                        pb.TopFeature(
                            feature=top.feature,
                            label=top.label.text,
                            label_score=_score_message(top.label),
                            active_share=top.active_share,
                            strength=top.strength,
                            usual_strength=top.usual_strength,
                        )
                        for top in features
                    ],
                )
                for sae, (tokens, features) in found.items()
            ]
        )


def _score_message(label: FeatureLabel) -> feature_pb2.LabelScore | None:
    return None if label.score is None else score_message(label.score)


def _within(field: str, value: int, low: int, high: int) -> int:
    if low <= value <= high:
        return value
    raise InvalidRequest([FieldViolation(field, f"must be between {low} and {high}; got {value}")])


def _message(snapshot: ActivitySnapshot, lost: int) -> pb.WatchActivationsResponse:
    return pb.WatchActivationsResponse(
        seconds=snapshot.seconds,
        lost=lost,
        tokens=snapshot.tokens,
        features=[
            pb.FeatureActivity(
                feature=feature_pb2.FeatureRef(sae=feature.sae, index=feature.index),
                alias=feature.alias,
                active_tokens=int(snapshot.active[position]),
                over_threshold_tokens=int(snapshot.over[position]),
                max_activation=float(snapshot.largest[position]),
            )
            for position, feature in enumerate(snapshot.watch.features)
        ],
    )
