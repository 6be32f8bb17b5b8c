"""Calls at the edge: how many, how they ended, how long they took, who was turned away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram

from steerd.monitoring.buckets import REQUEST_DURATION, RPC_DURATION
from steerd.monitoring.exemplars import exemplar

OUTCOMES = ("ok", "cancelled", "timeout", "rejected", "invalid", "error")
REJECTIONS = ("queue_full", "slow_reader", "draining", "engine_stopped", "given_up", "other")
_OTHER_CODE = "UNKNOWN"
# Of every RPC these start at 0: the ends that tell of faults must not begin with the first of them.
_STARTED_CODES = (
    "OK",
    "CANCELLED",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "RESOURCE_EXHAUSTED",
    "INTERNAL",
)
# All that the edge answers; what else there might be counts as the last one. Of the rare ones an RPC that is
# no request has series of its own for the first few that come.
STATUS_CODES = (
    *_STARTED_CODES,
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "FAILED_PRECONDITION",
    "UNIMPLEMENTED",
    "UNAVAILABLE",
    _OTHER_CODE,
)
_NAMED_RARE_CODES = 3
_MOST_CODES = len(_STARTED_CODES) + _NAMED_RARE_CODES + 1  # and _OTHER_CODE
# The calls that run the model for their caller: how they end and how long they take is looked at closely.
_REQUESTS = ("Generate", "Score")


class RpcName(Protocol):
    """The names of an RPC that become labels; all come from the services' definitions."""

    @property
    def type(self) -> str: ...

    @property
    def service(self) -> str: ...

    @property
    def method(self) -> str: ...


class RpcMetrics:
    """Counts calls, as the edge's observer.

    An RPC costs eight series until it ends in a way that few calls end; a request's (Generate, Score) has all
    its ends from the start, outcomes, and a histogram.
    """

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
            "Seconds from a request's start to its end.",
            labels,
            buckets=RPC_DURATION,
            registry=registry,
        )
        self._seconds = Counter(
            "steerd_rpc_seconds_total",
            "Seconds that calls took, all together; by grpc_server_handled_total it is their mean.",
            labels,
            registry=registry,
        )
        self._requests = Counter(
            "steerd_requests_total",
            "Generate and Score calls ended. Outcomes error, rejected and timeout are the server's doing.",
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

    @property
    def unused_series(self) -> int:
        """How many more series there will be when every RPC has ended in every way."""
        return sum(max(_MOST_CODES - len(one.handled), 0) for one in self._rpcs.values())

    def rpc_served(self, rpc: RpcName) -> None:
        """Start the series of an RPC at 0."""
        names = (rpc.type, rpc.service, rpc.method)
        is_request = rpc.method in _REQUESTS
        self._rpcs[rpc.service, rpc.method] = _OneRpc(
            started=self._started.labels(*names),
            seconds=self._seconds.labels(*names),
            handled={
                code: self._handled.labels(*names, code)
                for code in (STATUS_CODES if is_request else _STARTED_CODES)
            },
            handling=self._handling.labels(*names) if is_request else None,
            outcomes={
                outcome: self._requests.labels(self._model, rpc.method, outcome)
                for outcome in (OUTCOMES if is_request else ())
            },
            duration=self._duration if rpc.method == "Generate" else {},
        )

    def rpc_started(self, rpc: RpcName) -> None:
        self._one(rpc).started.inc()

    def rpc_finished(self, rpc: RpcName, *, code: str, outcome: str, seconds: float, request_id: str) -> None:
        one = self._one(rpc)
        self._ended(rpc, one, code).inc()
        one.seconds.inc(seconds)
        if one.handling is not None:
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

    def _ended(self, rpc: RpcName, one: _OneRpc, code: str) -> Counter:
        if code not in one.handled:
            named = one.handled.keys() - {_OTHER_CODE}
            if code not in STATUS_CODES or len(named) == _MOST_CODES - 1:
                code = _OTHER_CODE
        if code not in one.handled:
            one.handled[code] = self._handled.labels(rpc.type, rpc.service, rpc.method, code)
        return one.handled[code]


@dataclass(frozen=True, slots=True)
class _OneRpc:
    """The series of one RPC; `handled` has those of the codes that it ended with so far."""

    started: Counter
    seconds: Counter
    handled: dict[str, Counter]
    handling: Histogram | None
    outcomes: dict[str, Counter]
    duration: dict[str, Histogram]
