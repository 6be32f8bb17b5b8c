"""Calls at the edge: how many, how they ended, how long they took, who was turned away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram

from steerd.monitoring.buckets import REQUEST_DURATION, RPC_DURATION
from steerd.monitoring.exemplars import exemplar

OUTCOMES = ("ok", "cancelled", "timeout", "rejected", "invalid", "error")
REJECTIONS = ("queue_full", "slow_reader", "draining", "engine_stopped", "given_up", "other")
_STATUS_CODES = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
)
_OURS = "steerd.v1."


class RpcName(Protocol):
    """The names of an RPC that become labels; all come from the services' definitions."""

    @property
    def type(self) -> str: ...

    @property
    def service(self) -> str: ...

    @property
    def method(self) -> str: ...


class RpcMetrics:
    """Counts calls, as the edge's observer."""

    def __init__(self, registry: CollectorRegistry, model: str) -> None:
        self._model = model
        labels = ("grpc_type", "grpc_service", "grpc_method")
        self._started = Counter("grpc_server_started_total", "Calls started.", labels, registry=registry)
        self._handled = Counter(
            "grpc_server_handled_total",
            "Calls ended, by status code.",
            (*labels, "grpc_code"),
            registry=registry,
        )
        self._handling = Histogram(
            "grpc_server_handling_seconds",
            "Seconds from a call's start to its end.",
            labels,
            buckets=RPC_DURATION,
            registry=registry,
        )
        self._requests = Counter(
            "steerd_requests_total",
            "Requests ended. Outcomes error, rejected and timeout are the server's doing.",
            ("model", "rpc", "outcome"),
            registry=registry,
        )
        duration = Histogram(
            "steerd_request_duration_seconds",
            "Seconds of a whole Generate call, for those that ended well or by a fault of ours.",
            ("model", "outcome"),
            buckets=REQUEST_DURATION,
            registry=registry,
        )
        self._duration = {outcome: duration.labels(model, outcome) for outcome in ("ok", "error")}
        rejected = Counter(
            "steerd_requests_rejected_total",
            "Requests refused or ended for want of room.",
            ("reason",),
            registry=registry,
        )
        self._rejected = {reason: rejected.labels(reason) for reason in REJECTIONS}
        self._rpcs: dict[tuple[str, str], _OneRpc] = {}

    def rpc_served(self, rpc: RpcName) -> None:
        """Start the series of an RPC at 0."""
        names = (rpc.type, rpc.service, rpc.method)
        ours = rpc.service.startswith(_OURS)
        self._rpcs[rpc.service, rpc.method] = _OneRpc(
            started=self._started.labels(*names),
            handled={code: self._handled.labels(*names, code) for code in _STATUS_CODES},
            handling=self._handling.labels(*names),
            outcomes={
                outcome: self._requests.labels(self._model, rpc.method, outcome)
                for outcome in (OUTCOMES if ours else ())
            },
            duration=self._duration if rpc.method == "Generate" else {},
        )

    def rpc_started(self, rpc: RpcName) -> None:
        self._one(rpc).started.inc()

    def rpc_finished(self, rpc: RpcName, *, code: str, outcome: str, seconds: float, request_id: str) -> None:
        one = self._one(rpc)
        one.handled[code if code in one.handled else "UNKNOWN"].inc()
        one.handling.observe(seconds)
        if outcome in one.outcomes:
            one.outcomes[outcome].inc()
        if outcome in one.duration:
            one.duration[outcome].observe(seconds, exemplar(request_id))

    def request_rejected(self, reason: str) -> None:
        self._rejected.get(reason.lower(), self._rejected["other"]).inc()

    def _one(self, rpc: RpcName) -> _OneRpc:
        if (rpc.service, rpc.method) not in self._rpcs:
            self.rpc_served(rpc)
        return self._rpcs[rpc.service, rpc.method]


@dataclass(frozen=True, slots=True)
class _OneRpc:
    """The series of one RPC."""

    started: Counter
    handled: dict[str, Counter]
    handling: Histogram
    outcomes: dict[str, Counter]
    duration: dict[str, Histogram]
