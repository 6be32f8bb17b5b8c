"""Requests, tokens and latencies as the engine sees them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from steerd.engine.events import FailedEvent, FinishedEvent, StepReport
from steerd.engine.faults import NO_MEMORY, NON_FINITE
from steerd.engine.request import FinishReason
from steerd.monitoring.buckets import (
    BATCH_SIZE,
    CANCELLATION,
    REQUEST_DURATION,
    STEERING_OVERHEAD,
    TIME_PER_OUTPUT_TOKEN,
    TIME_TO_FIRST_TOKEN,
    TOKENS,
)
from steerd.steering.trigger import Action

_ACTIONS = tuple(action.__name__.lower() for action in get_args(Action))
_CLIENT = "client"
_SOURCES = (_CLIENT, "preset", "policy")


class EngineMetrics:
    """Counts steps and finished requests, on the engine's thread."""

    def __init__(
        self, registry: CollectorRegistry, *, model: str, queue_limit: int, non_finite: Counter
    ) -> None:
        """`non_finite` is labelled by the site."""
        self._registry = registry
        self._model = model
        self._running: Callable[[], int] = lambda: 0
        self._kv_ratio = 0.0
        self._make_request_series()
        self._make_fault_series(non_finite)
        self._make_step_series()
        Gauge(
            "steerd_queue_limit", "Requests that may wait before others are refused.", registry=registry
        ).set(queue_limit)

    def read_load(
        self, running: Callable[[], int], waiting: Callable[[], int], studies: Callable[[], int]
    ) -> None:
        """Have every scrape ask the engine how many requests run and wait, and how many studies there are."""
        self._running = running
        self._gauge("steerd_requests_running", "Requests being generated.").set_function(running)
        self._gauge("steerd_requests_waiting", "Requests in the waiting line.").set_function(waiting)
        self._gauge("steerd_studies_running", "Studies under way beside them.").set_function(studies)

    def step_finished(self, report: StepReport) -> None:
        self._steps.inc()
        self._last_step.set(time.time())
        self._batch_size.observe(report.batch_size)
        self._steering_overhead.observe(report.steering_seconds)
        self._prompt_tokens.inc(report.prompt_tokens)
        self._generation_tokens.inc(report.generated_tokens)
        self._kv_bytes.set(report.kv_total_bytes)
        self._kv_ratio = report.kv_used_bytes / report.kv_total_bytes

    def first_token(self, seconds: float) -> None:
        self._time_to_first_token.observe(seconds)

    def request_finished(self, event: FinishedEvent | FailedEvent) -> None:
        if isinstance(event, FailedEvent):  # the edge counts it, with its status
            if event.fault is not None:
                self._faults[event.fault].inc()
            return
        for fired in event.receipt.fired:
            source, _, _ = fired.source.partition(":")
            self._fired[fired.action, source or _CLIENT].inc()
        if event.cancel_seconds is not None:
            self._cancellation.observe(event.cancel_seconds)
        self._finish_reasons[event.reason].inc()
        if event.reason in (FinishReason.CANCELLED, FinishReason.SCORED):
            return  # its times say when the client left, or are no generation's
        self._request_prompt_tokens.observe(event.prompt_tokens)
        self._request_generation_tokens.observe(event.generated_tokens)
        self._queue_time.observe(event.timings.queue_seconds)
        self._prefill_time.observe(event.timings.prefill_seconds)
        self._decode_time.observe(event.timings.decode_seconds)
        if event.generated_tokens > 1:
            self._time_per_output_token.observe(event.timings.decode_seconds / (event.generated_tokens - 1))

    def _make_request_series(self) -> None:
        reasons = Counter(
            "steerd_finish_reason_total",
            "Requests that ran to an end, by why they ended.",
            ("model", "reason"),
            registry=self._registry,
        )
        self._finish_reasons = {reason: reasons.labels(self._model, reason.value) for reason in FinishReason}
        fired = Counter(
            "steerd_triggers_fired_total",
            "Triggers that fired, each once a request, by what they do and who wants them.",
            ("model", "action", "source"),
            registry=self._registry,
        )
        self._fired = {
            (action, source): fired.labels(self._model, action, source)
            for action in _ACTIONS
            for source in _SOURCES
        }
        self._time_to_first_token = self._histogram(
            "steerd_time_to_first_token_seconds",
            "Seconds from submission to the first token, the waiting line included.",
            TIME_TO_FIRST_TOKEN,
        )
        self._time_per_output_token = self._histogram(
            "steerd_time_per_output_token_seconds",
            "Mean seconds per token after the first, one observation a request.",
            TIME_PER_OUTPUT_TOKEN,
        )
        self._queue_time = self._histogram(
            "steerd_queue_time_seconds", "Seconds in the waiting line.", REQUEST_DURATION
        )
        self._prefill_time = self._histogram(
            "steerd_prefill_time_seconds",
            "Seconds from the waiting line to the first token.",
            REQUEST_DURATION,
        )
        self._decode_time = self._histogram(
            "steerd_decode_time_seconds", "Seconds from the first token to the last.", REQUEST_DURATION
        )
        self._cancellation = Histogram(
            "steerd_cancellation_latency_seconds",
            "Seconds from a cancel until what the request held was free.",
            buckets=CANCELLATION,
            registry=self._registry,
        )
        self._request_prompt_tokens = self._histogram(
            "steerd_request_prompt_tokens", "Prompt tokens of a request.", TOKENS
        )
        self._request_generation_tokens = self._histogram(
            "steerd_request_generation_tokens", "Generated tokens of a request.", TOKENS
        )

    def _make_fault_series(self, non_finite: Counter) -> None:
        out_of_memory = Counter(
            "steerd_oom_total",
            "Requests that failed because memory ran out.",
            ("phase",),
            registry=self._registry,
        )
        self._faults = {fault: out_of_memory.labels(fault.value) for fault in NO_MEMORY}
        self._faults |= {fault: non_finite.labels(fault.value) for fault in NON_FINITE}

    def _make_step_series(self) -> None:
        self._prompt_tokens = self._counter("steerd_prompt_tokens_total", "Prompt tokens run.")
        self._generation_tokens = self._counter("steerd_generation_tokens_total", "Tokens generated.")
        self._kv_bytes = self._gauge("steerd_kv_cache_bytes", "Size of the key-value cache.")
        kv_usage = self._gauge("steerd_kv_cache_usage_ratio", "Share of the key-value cache in use.")
        # No step follows when the last request is cancelled, to tell that its memory is free.
        kv_usage.set_function(lambda: self._kv_ratio if self._running() else 0.0)
        self._steps = Counter("steerd_engine_steps_total", "Engine steps.", registry=self._registry)
        self._last_step = Gauge(
            "steerd_engine_last_step_timestamp_seconds",
            "Unix time of the last engine step, or of the start when there was none.",
            registry=self._registry,
        )
        self._last_step.set(time.time())
        self._steering_overhead = Histogram(
            "steerd_steering_overhead_seconds",
            "Seconds of an engine step that went by for planning, reading and editing, not for the host.",
            buckets=STEERING_OVERHEAD,
            registry=self._registry,
        )
        self._batch_size = Histogram(
            "steerd_engine_batch_size", "Requests in a step.", buckets=BATCH_SIZE, registry=self._registry
        )

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(name, text, ("model",), registry=self._registry).labels(self._model)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, ("model",), registry=self._registry).labels(self._model)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        histogram = Histogram(name, text, ("model",), buckets=buckets, registry=self._registry)
        return histogram.labels(self._model)
