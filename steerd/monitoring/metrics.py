"""The one observer that the edge and the engine talk to; every series of the server hangs on its registry."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge

from steerd.config import WatchedFeature
from steerd.engine.events import FailedEvent, FinishedEvent, StepReport
from steerd.engine.request import GenerationRequest
from steerd.monitoring.engine_metrics import EngineMetrics
from steerd.monitoring.feature_metrics import FeatureMetrics
from steerd.monitoring.rpc_metrics import RpcMetrics, RpcName


class Metrics:
    """Is an EngineObserver, and the edge's observer; each method returns at once."""

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        model: str,
        saes: Sequence[str],
        watch: Sequence[WatchedFeature],
        queue_limit: int,
        build: Mapping[str, str],
    ) -> None:
        """Make every series, at 0. `build` becomes the labels of steerd_build_info."""
        self._rpc = RpcMetrics(registry, model)
        self._engine = EngineMetrics(registry, model=model, queue_limit=queue_limit)
        self._features = FeatureMetrics(registry, saes=saes, watch=watch)
        self._messages = Counter(
            "steerd_stream_messages_sent_total", "Messages of Generate streams.", registry=registry
        )
        self._coalesced = Counter(
            "steerd_stream_coalesced_tokens_total",
            "Tokens that shared a message with an earlier token, because the reader lagged.",
            registry=registry,
        )
        info = Gauge(
            "steerd_build_info", "Always 1; its labels say what runs.", tuple(build), registry=registry
        )
        info.labels(*build.values()).set(1)

    def read_load(self, running: Callable[[], int], waiting: Callable[[], int]) -> None:
        """Have every scrape ask the engine how many requests run and wait."""
        self._engine.read_load(running, waiting)

    def step_finished(self, report: StepReport) -> None:
        self._engine.step_finished(report)
        self._features.step_finished(report)

    def first_token(self, request: GenerationRequest, seconds: float) -> None:  # noqa: ARG002  # an observer's
        self._engine.first_token(seconds)

    def request_finished(
        self,
        request: GenerationRequest,  # noqa: ARG002  # an observer's
        event: FinishedEvent | FailedEvent,
    ) -> None:
        self._engine.request_finished(event)

    def rpc_served(self, rpc: RpcName) -> None:
        """This RPC is served: its series start at 0."""
        self._rpc.rpc_served(rpc)

    def rpc_started(self, rpc: RpcName) -> None:
        self._rpc.rpc_started(rpc)

    def rpc_finished(self, rpc: RpcName, *, code: str, outcome: str, seconds: float) -> None:
        self._rpc.rpc_finished(rpc, code=code, outcome=outcome, seconds=seconds)

    def request_rejected(self, reason: str) -> None:
        self._rpc.request_rejected(reason)

    def messages_sent(self, messages: int, coalesced_tokens: int) -> None:
        self._messages.inc(messages)
        self._coalesced.inc(coalesced_tokens)
