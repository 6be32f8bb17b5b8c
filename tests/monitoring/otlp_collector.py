"""A collector of spans: a real OTLP service on a free loopback port."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent import futures
from types import TracebackType
from typing import Any, Self

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as collector
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class OtlpCollector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps what it is sent, inside a `with` block; with `refuses` it takes nothing."""

    def __init__(self, *, refuses: bool = False) -> None:
        self._refuses = refuses
        self.requests: list[collector.ExportTraceServiceRequest] = []

    def Export(
        self, request: collector.ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> collector.ExportTraceServiceResponse:
        if self._refuses:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "on purpose")
        self.requests.append(request)
        return collector.ExportTraceServiceResponse()

    def __enter__(self) -> Self:
        self._server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)
        port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()
        self.endpoint = f"http://127.0.0.1:{port}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop(grace=None).wait()

    @property
    def spans(self) -> list[Span]:
        return [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    @property
    def resource(self) -> Mapping[str, Any]:
        return values(self.requests[0].resource_spans[0].resource.attributes)


def values(attributes: Any) -> dict[str, Any]:
    """Attributes as plain values."""
    return {pair.key: _value(pair.value) for pair in attributes if isinstance(pair, KeyValue)}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return getattr(value, kind) if kind else None
