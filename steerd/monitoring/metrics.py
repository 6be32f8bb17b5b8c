"""Every series of the server, and who counts them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge

from steerd.engine.events import FailedEvent, FinishedEvent, StepReport
from steerd.engine.request import GenerationRequest
from steerd.engine.watch_list import WatchList
from steerd.monitoring.engine_metrics import EngineMetrics
from steerd.monitoring.request_tallies import RequestFeatures
from steerd.monitoring.rpc_metrics import RpcMetrics, RpcName
from steerd.monitoring.sae_metrics import SaeMetrics
from steerd.monitoring.series_budget import cost, num_series, over_budget
from steerd.monitoring.watched_metrics import WatchedMetrics


class Metrics:
    """A part of the monitor, and the edge's observer; each method returns at once."""

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        model: str,
        saes: Sequence[str],
        queue_limit: int,
        build: Mapping[str, str],
        memory_limit: int | None = None,
    ) -> None:
        """Make every series, at 0, and watch nothing. `build` becomes the labels of steerd_build_info."""
        self._registry = registry
        self._rpc = RpcMetrics(registry, model)
        non_finite = Counter(
            "steerd_nonfinite_total",
            "NaN or Inf: requests that ended on such logits, and sampled rows of the stream (resid).",
            ("site",),
            registry=registry,
        )
        self._engine = EngineMetrics(registry, model=model, queue_limit=queue_limit, non_finite=non_finite)
        self._saes = SaeMetrics(registry, saes, non_finite.labels("resid"))
        self._watched = WatchedMetrics(registry)
        self._messages = Counter(
            "steerd_stream_messages_sent_total", "Messages of Generate streams.", registry=registry
        )
        self._coalesced = Counter(
            "steerd_stream_coalesced_tokens_total",
            "Tokens that shared a message with an earlier token, because the reader lagged.",
            registry=registry,
        )
        self._rejected_lists = Counter(
            "steerd_feature_series_rejected_total",
            "Watch lists refused because they cost more series than there is room for.",
            registry=registry,
        )
        info = Gauge(
            "steerd_build_info", "Always 1; its labels say what runs.", tuple(build), registry=registry
        )
        info.labels(*build.values()).set(1)
        if memory_limit is not None:
            Gauge("steerd_memory_limit_bytes", "Memory that this process may take.", registry=registry).set(
                memory_limit
            )

    def read_load(
        self, running: Callable[[], int], waiting: Callable[[], int], studies: Callable[[], int]
    ) -> None:
        """Have every scrape ask the engine how many requests run and wait, and how many studies there are."""
        self._engine.read_load(running, waiting, studies)

    def read_device_memory(self, device: str, kinds: Mapping[str, Callable[[], int]]) -> None:
        """Have every scrape ask how many bytes of a device's memory there are of each kind, if of any."""
        if not kinds:
            return
        bytes_of = Gauge(
            "steerd_device_memory_bytes",
            "Memory of the host's device: allocated to tensors, reserved by the process, its limit.",
            ("device", "kind"),
            registry=self._registry,
        )
        for kind, read in kinds.items():
            bytes_of.labels(device, kind).set_function(read)

    def sae_loaded(self, sae: str, weights_sha256: str) -> None:
        """An SAE is served from now on, in the place of another one of its name if there was one."""
        self._saes.sae_loaded(sae, weights_sha256)

    def sae_reload_failed(self, sae: str) -> None:
        """What lies in its folder could not be served; what was served still is."""
        self._saes.sae_reload_failed(sae)

    def over_budget(self, watch: WatchList) -> str | None:
        """What a list would cost, for people, when there is no room for it; a refusal is counted."""
        others = self._rpc.unused_series + num_series(self._registry) - cost(self._watched.watch)
        problem = over_budget(watch, others=others)
        self._rejected_lists.inc(problem is not None)
        return problem

    def watch(self, watch: WatchList) -> None:
        """Count for this list from now on; features in both lists keep their counts."""
        self._watched.change(watch)

    def step_finished(self, report: StepReport) -> None:
        self._engine.step_finished(report)
        self._saes.step_finished(report)
        self._watched.step_finished(report)

    def first_token(self, request: GenerationRequest, seconds: float) -> None:  # noqa: ARG002  # an observer's
        self._engine.first_token(seconds)

    def request_finished(
        self,
        request: GenerationRequest,
        event: FinishedEvent | FailedEvent,
        features: RequestFeatures | None,
    ) -> None:
        self._engine.request_finished(event)
        self._saes.request_finished(request, event)
        if features is not None:
            self._watched.request_finished(request.id, features)

    def rpc_served(self, rpc: RpcName) -> None:
        """This RPC is served: its series start at 0."""
        self._rpc.rpc_served(rpc)

    def rpc_started(self, rpc: RpcName) -> None:
        self._rpc.rpc_started(rpc)

    def rpc_finished(self, rpc: RpcName, *, code: str, outcome: str, seconds: float, request_id: str) -> None:
        self._rpc.rpc_finished(rpc, code=code, outcome=outcome, seconds=seconds, request_id=request_id)

    def request_rejected(self, reason: str) -> None:
        self._rpc.request_rejected(reason)

    def messages_sent(self, messages: int, coalesced_tokens: int) -> None:
        self._messages.inc(messages)
        self._coalesced.inc(coalesced_tokens)
