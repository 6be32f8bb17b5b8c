"""What the watched features do now: sums that each watcher takes when it wants to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from steerd.engine.events import Ints, LastEvent, StepReport
from steerd.engine.request import GenerationRequest
from steerd.engine.watch_list import WatchList
from steerd.errors import Overloaded
from steerd.monitoring.request_tallies import RequestFeatures

MAX_WATCHERS = 16


@dataclass(frozen=True, slots=True)
class ActivitySnapshot:
    """What happened in some seconds: `tokens` read and, by feature of the list, rows `active` and `over` the
    threshold and the `largest` activation."""

    seconds: float
    tokens: int
    watch: WatchList
    active: Ints
    over: Ints
    largest: np.ndarray[tuple[int], np.dtype[np.float32]]


class Watcher:
    """Sums steps from one `take` to the next; what it holds does not grow with time."""

    def __init__(self, watch: WatchList, clock: Callable[[], float]) -> None:
        self._lock = threading.Lock()
        self._clock = clock
        self._start(watch)

    def add(self, report: StepReport) -> None:
        """Count one step; with another watch list the sums begin anew."""
        with self._lock:
            if report.watched.watch is not self._watch:
                self._start(report.watched.watch)
            self._tokens += max(report.monitored_tokens.values(), default=0)
            active = report.watched.active
            np.add.at(self._active, active.features, 1)
            np.add.at(self._over, active.features, active.values > self._watch.thresholds[active.features])
            np.maximum.at(self._largest, active.features, active.values)

    def take(self) -> ActivitySnapshot:
        """What was added since the last one."""
        with self._lock:
            seconds = self._clock() - self._since
            snapshot = ActivitySnapshot(
                seconds, self._tokens, self._watch, self._active, self._over, self._largest
            )
            self._start(self._watch)
        return snapshot

    def _start(self, watch: WatchList) -> None:
        self._watch = watch
        self._since = self._clock()
        self._tokens = 0
        self._active = np.zeros(len(watch), dtype=np.int64)
        self._over = np.zeros(len(watch), dtype=np.int64)
        self._largest = np.zeros(len(watch), dtype=np.float32)


class Activity:
    """A part of the monitor: tells its watchers of each step."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._watchers: list[Watcher] = []

    @contextmanager
    def watching(self, watch: WatchList) -> Iterator[Watcher]:
        """A watcher of this list for as long as the block runs; raises Overloaded when there are too many."""
        with self._lock:
            if len(self._watchers) >= MAX_WATCHERS:
                raise Overloaded(f"{MAX_WATCHERS} watch already", reason="TOO_MANY_WATCHERS")
            watcher = Watcher(watch, self._clock)
            self._watchers.append(watcher)
        try:
            yield watcher
        finally:
            with self._lock:
                self._watchers.remove(watcher)

    def step_finished(self, report: StepReport) -> None:
        with self._lock:
            watchers = list(self._watchers)
        for watcher in watchers:
            watcher.add(report)

    def first_token(self, request: GenerationRequest, seconds: float) -> None:
        """Nothing: only steps tell of features."""

    def request_finished(
        self, request: GenerationRequest, event: LastEvent, features: RequestFeatures | None
    ) -> None:
        """Nothing, as above."""
