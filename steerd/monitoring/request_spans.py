"""A span of each client's request, sent over OTLP. Needs the extra `otel`: imported only where wanted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from itertools import pairwise

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from steerd.engine.events import FailedEvent, FinishedEvent, LastEvent, StepReport
from steerd.engine.request import GenerationRequest
from steerd.monitoring.request_tallies import RequestFeatures
from steerd.monitoring.span_attributes import asked, became, felt, operation_of

_MAX_SPANS = 2048
_MAX_BATCH = 512
_PHASES = ("queue", "prefill", "decode")
_STOP_SECONDS = 5.0


def otlp_exporter(endpoint: str) -> SpanExporter:
    """Sends to a collector by gRPC, in plain text to an http:// address.

    Headers, certificates and the time limit are those of OTEL_EXPORTER_OTLP_*.
    """
    return OTLPSpanExporter(endpoint=endpoint)


class RequestSpans:
    """A part of the monitor. What it is told is sent by a thread of its own, some seconds later.

    A span stands under the caller's, if the call named one, and is left out where that one is not sampled.
    Its times are the engine's; under it are the phases that the request came through.
    """

    def __init__(
        self,
        exporter: SpanExporter,
        *,
        model: str,
        version: str,
        failed: Callable[[], None],
        lost: Callable[[], None],
    ) -> None:
        """`failed` hears of each batch that was not taken, `lost` of each request that found no room."""
        self._model = model
        self._lost = lost
        self._exporter = _CountedExporter(exporter, failed)
        self._provider = TracerProvider(resource=_resource(version), shutdown_on_exit=False)
        self._provider.add_span_processor(
            BatchSpanProcessor(self._exporter, max_queue_size=_MAX_SPANS, max_export_batch_size=_MAX_BATCH)
        )
        self._tracer = self._provider.get_tracer("steerd", version)
        self._propagator = TraceContextTextMapPropagator()

    def stop(self) -> None:
        """Send what waits, for some seconds at most."""
        give_up = threading.Timer(_STOP_SECONDS, self._exporter.shutdown)
        give_up.start()
        self._provider.shutdown()
        give_up.cancel()

    def step_finished(self, report: StepReport) -> None: ...

    def first_token(self, request: GenerationRequest, seconds: float) -> None: ...

    def request_finished(
        self, request: GenerationRequest, event: LastEvent, features: RequestFeatures | None
    ) -> None:
        if request.traceparent is None:
            return
        if self._exporter.waiting + 1 + len(_PHASES) > _MAX_SPANS:
            self._lost()
            return
        phases = _phase_seconds(event)
        times = _nanoseconds(event.ended, phases)
        span = self._tracer.start_span(
            f"{operation_of(request)} {self._model}",
            context=self._propagator.extract({"traceparent": request.traceparent}),
            kind=SpanKind.SERVER,
            attributes=asked(request, self._model),
            start_time=times[0],
        )
        if span.is_recording():
            span.set_attributes(became(request, event))
            if features is not None:
                span.set_attributes(felt(features))
            if isinstance(event, FailedEvent):
                span.set_status(Status(StatusCode.ERROR))
            else:
                self._end_phases(span, times)
            self._end(span, times[-1])

    def _end_phases(self, parent: Span, times: Sequence[int]) -> None:
        """Those that took any time: one that was cancelled in the line has nothing after it."""
        context = set_span_in_context(parent)
        for name, (start, end) in zip(_PHASES, pairwise(times), strict=True):
            if end > start:
                self._end(self._tracer.start_span(name, context=context, start_time=start), end)

    def _end(self, span: Span, time: int) -> None:
        self._exporter.expect()
        span.end(end_time=time)


class _CountedExporter(SpanExporter):
    """Knows how many spans it is still to be given, and tells of what is not taken."""

    def __init__(self, exporter: SpanExporter, failed: Callable[[], None]) -> None:
        self._exporter = exporter
        self._failed = failed
        self._lock = threading.Lock()
        self.waiting = 0

    def expect(self) -> None:
        """One more is on its way."""
        with self._lock:
            self.waiting += 1

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        finally:
            with self._lock:
                self.waiting -= len(spans)
            if result is not SpanExportResult.SUCCESS:
                self._failed()
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


def _phase_seconds(event: LastEvent) -> tuple[float, ...]:
    if isinstance(event, FinishedEvent):
        timings = event.timings
        return timings.queue_seconds, timings.prefill_seconds, timings.decode_seconds
    return (event.seconds,)


def _nanoseconds(ended: float, phases: Sequence[float]) -> list[int]:
    """The bounds of the phases, since 1970; counted back from the end, as the engine's clock has no date."""
    times = [round(ended * 1e9)]
    for seconds in reversed(phases):
        times.insert(0, times[0] - round(seconds * 1e9))
    return times


def _resource(version: str) -> Resource:
    """Who sends; OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES go before."""
    ours = Resource({"service.name": "steerd", "service.version": version})
    return ours.merge(OTELResourceDetector().detect())
