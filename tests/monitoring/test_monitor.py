"""What becomes of what the engine tells when the monitor fails or lags: nothing worse than a count."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field

import pytest
from prometheus_client import CollectorRegistry

from steerd.engine.events import FailedEvent, LastEvent, StepReport
from steerd.engine.request import GenerationRequest
from steerd.monitoring.monitor import Monitor
from steerd.monitoring.request_tallies import RequestFeatures
from tests.monitoring.test_metrics import REQUEST, finished, step

TIMEOUT_SECONDS = 60.0


@dataclass
class Part:
    """Keeps what it is told; waits in a step until it may go on, and fails if it must."""

    fails: bool = False
    may_go_on: threading.Event = field(default_factory=threading.Event)
    told: list[object] = field(default_factory=list)
    features: list[RequestFeatures | None] = field(default_factory=list)

    def step_finished(self, report: StepReport) -> None:
        assert self.may_go_on.wait(TIMEOUT_SECONDS)
        self.told.append(report)
        if self.fails:
            raise ArithmeticError("on purpose")

    def first_token(self, request: GenerationRequest, seconds: float) -> None:
        self.told.append((request, seconds))

    def request_finished(
        self, request: GenerationRequest, event: LastEvent, features: RequestFeatures | None
    ) -> None:
        self.told.append((request, event))
        self.features.append(features)


def count(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(name, labels)


def test_a_scrape_waits_for_all_that_was_told() -> None:
    registry, part = CollectorRegistry(), Part()
    part.may_go_on.set()
    monitor = Monitor(registry, queue_steps=100)
    monitor.start({"part": part})
    reports = [step() for _ in range(50)]

    for report in reports:
        monitor.step_finished(report)
    monitor.first_token(REQUEST, 0.5)
    end = finished()
    monitor.request_finished(REQUEST, end)
    queued = count(registry, "steerd_monitor_queue_length")

    assert queued == 0
    assert part.told == [*reports, (REQUEST, 0.5), (REQUEST, end)]
    (features,) = part.features
    assert features is not None
    monitor.stop()


def test_a_request_that_never_ran_has_no_features() -> None:
    part = Part()
    monitor = Monitor(CollectorRegistry(), queue_steps=100)
    monitor.start({"part": part})

    monitor.request_finished(REQUEST, FailedEvent(RuntimeError()))
    monitor.stop()

    assert part.features == [None]


def test_what_finds_no_room_is_dropped_and_counted() -> None:
    registry, part = CollectorRegistry(), Part()
    monitor = Monitor(registry, queue_steps=3)
    monitor.start({"part": part})

    for _ in range(10):  # the first may be with the part already, the queue holds three
        monitor.step_finished(step())
    part.may_go_on.set()
    monitor.stop()

    dropped = count(registry, "steerd_monitor_dropped_total", reason="queue_full")
    assert dropped is not None
    assert len(part.told) in (3, 4)
    assert dropped == 10 - len(part.told)


def test_a_part_that_fails_is_counted_and_the_others_are_told(caplog: pytest.LogCaptureFixture) -> None:
    registry, broken, well = CollectorRegistry(), Part(fails=True), Part()
    monitor = Monitor(registry, queue_steps=100)
    monitor.start({"broken": broken, "well": well})
    broken.may_go_on.set()
    well.may_go_on.set()

    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            monitor.step_finished(step())
        monitor.stop()

    assert count(registry, "steerd_monitor_failures_total", part="broken") == 3
    assert count(registry, "steerd_monitor_failures_total", part="well") == 0
    assert len(well.told) == 3
    assert caplog.text.count("Traceback") == 1, "one is enough"
