"""Off the engine's thread: what the engine tells waits in a bounded queue for a thread that counts it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from queue import SimpleQueue
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Metric

from steerd.engine.events import LastEvent, StepReport
from steerd.engine.request import GenerationRequest
from steerd.monitoring.request_tallies import RequestFeatures, RequestTallies

_SETTLE_SECONDS = 1.0
_TALLIES = "tallies"  # the monitor's own part
_QUEUE_FULL, _SLOW_WATCHER, _SLOW_COLLECTOR = "queue_full", "slow_watcher", "slow_collector"

_log = logging.getLogger(__name__)


class MonitorPart(Protocol):
    """Something that is kept of what the engine tells; told by the monitor's thread alone."""

    def step_finished(self, report: StepReport) -> None: ...

    def first_token(self, request: GenerationRequest, seconds: float) -> None: ...

    def request_finished(
        self, request: GenerationRequest, event: LastEvent, features: RequestFeatures | None
    ) -> None:
        """`features` is what the watched features did; None for a request that never ran."""


class Monitor:
    """Is the engine's observer. Its methods return at once and never raise, whatever becomes of the counts.

    What finds the queue full is dropped, and a part that fails loses what it was told: both are counted.
    """

    def __init__(self, registry: CollectorRegistry, *, queue_steps: int) -> None:
        """Make the monitor's own series; every scrape of the registry waits until all told so far counts."""
        self._capacity = queue_steps
        self._queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._tallies = RequestTallies()
        self._parts: dict[str, MonitorPart] = {}
        self._failing: set[str] = set()
        self._make_series(registry)
        self._thread = threading.Thread(target=self._run, name="steerd-monitor", daemon=True)

    def start(self, parts: Mapping[str, MonitorPart]) -> None:
        """Tell these parts from now on; their names become labels of the failures."""
        self._parts = dict(parts)
        self._failures = {name: self._failed.labels(name) for name in (_TALLIES, *parts)}
        self._thread.start()

    def stop(self) -> None:
        """Count what is in the queue and end the thread."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def step_finished(self, report: StepReport) -> None:
        self._put(lambda: self._tell_step(report))

    def first_token(self, request: GenerationRequest, seconds: float) -> None:
        self._put(lambda: self._tell(lambda part: part.first_token(request, seconds)))

    def request_finished(self, request: GenerationRequest, event: LastEvent) -> None:
        self._put(lambda: self._tell_end(request, event))

    def snapshots_lost(self, count: int) -> None:
        """A reader of live activity was too slow for so many of them."""
        self._slow.inc(count)

    def spans_lost(self) -> None:
        """A request left no span, as too many wait for the collector."""
        self._slow_collector.inc()

    def part_failed(self, name: str) -> None:
        """A part failed on a thread of its own."""
        self._failures[name].inc()

    def settle(self) -> None:
        """Wait until all that was told so far counts, or for a second."""
        if self._thread.is_alive():
            settled = threading.Event()
            self._queue.put(settled.set)
            settled.wait(_SETTLE_SECONDS)

    def _put(self, tell: Callable[[], None]) -> None:
        if self._queue.qsize() >= self._capacity:
            self._dropped.inc()
        else:
            self._queue.put(tell)

    def _run(self) -> None:
        while (tell := self._queue.get()) is not None:
            self._guarded(_TALLIES, tell)

    def _tell_step(self, report: StepReport) -> None:
        self._tallies.add(report)
        self._tell(lambda part: part.step_finished(report))

    def _tell_end(self, request: GenerationRequest, event: LastEvent) -> None:
        features = self._tallies.take(request.id)
        self._tell(lambda part: part.request_finished(request, event, features))

    def _tell(self, tell: Callable[[MonitorPart], None]) -> None:
        for name, part in self._parts.items():
            self._guarded(name, partial(tell, part))

    def _guarded(self, name: str, tell: Callable[[], None]) -> None:
        try:
            tell()
        except Exception:
            if name not in self._failing:
                _log.exception("the monitor's part %s failed; further failures are only counted", name)
            self._failing.add(name)
            self._failures[name].inc()

    def _make_series(self, registry: CollectorRegistry) -> None:
        registry.register(_Settled(self.settle))  # first, so that it is asked before all others
        dropped = Counter(
            "steerd_monitor_dropped_total",
            "Steps, ends of requests, spans and live snapshots not counted or sent, for want of room.",
            ("reason",),
            registry=registry,
        )
        self._dropped, self._slow = dropped.labels(_QUEUE_FULL), dropped.labels(_SLOW_WATCHER)
        self._slow_collector = dropped.labels(_SLOW_COLLECTOR)
        self._failed = Counter(
            "steerd_monitor_failures_total",
            "Times that a part of the monitoring failed on what it was told.",
            ("part",),
            registry=registry,
        )
        Gauge(
            "steerd_monitor_queue_length",
            "Steps and ends of requests that wait to be counted.",
            registry=registry,
        ).set_function(self._queue.qsize)
        Gauge(
            "steerd_monitor_queue_limit",
            "How many of them may wait before others are dropped.",
            registry=registry,
        ).set(self._capacity)


class _Settled:
    """A collector without series, for what it does when a scrape begins."""

    def __init__(self, settle: Callable[[], None]) -> None:
        self._settle = settle

    def describe(self) -> Iterator[Metric]:
        yield from ()

    def collect(self) -> Iterator[Metric]:
        self._settle()
        yield from ()
