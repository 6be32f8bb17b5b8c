"""The last minutes of a few series, for the live page: samples of the registry, on a thread of their own."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count

from prometheus_client import CollectorRegistry

SAMPLE_SECONDS = 2.0
KEPT_SECONDS = 300.0

_CALLS_THAT_GENERATE = ("Generate", "Score")
_NAMES = (
    "steerd_requests_running",
    "steerd_requests_waiting",
    "steerd_prompt_tokens_total",
    "steerd_generation_tokens_total",
    "steerd_requests_total",
    "steerd_monitored_tokens_total",
    "steerd_feature_active_tokens_total",
    "steerd_feature_threshold_exceeded_total",
)

_log = logging.getLogger(__name__)

Watched = tuple[str, str, str]  # SAE, feature, alias


@dataclass(slots=True)
class RecentSample:
    """Some series at one moment; counts are since the server's start.

    `at` is Unix time. `outcomes` are of calls that run the model, `monitored` the tokens read by SAE.
    `active` and `over` are the tokens on which a watched feature was active, and above its threshold.
    """

    number: int
    at: float
    running: int = 0
    waiting: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    monitored: dict[str, int] = field(default_factory=dict)
    active: dict[Watched, int] = field(default_factory=dict)
    over: dict[Watched, int] = field(default_factory=dict)


class RecentSamples:
    """A ring of samples, filled from `start` to `stop`; any thread may read it."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry.restricted_registry(_NAMES)
        self._kept: deque[RecentSample] = deque(maxlen=round(KEPT_SECONDS / SAMPLE_SECONDS) + 1)
        self._numbers = count(1)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="steerd-live-page", daemon=True)

    def start(self) -> None:
        """Take a sample now and every two seconds."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def take(self) -> None:
        """Take one sample."""
        sample = RecentSample(next(self._numbers), time.time())
        for metric in self._registry.collect():
            for read in metric.samples:
                _put(sample, read.name, read.labels, int(read.value))
        self._kept.append(sample)

    def after(self, number: int) -> list[RecentSample]:
        """The samples with larger numbers, oldest first."""
        return [sample for sample in tuple(self._kept) if sample.number > number]

    def _run(self) -> None:
        try:
            while not self._stopped.is_set():
                self.take()
                self._stopped.wait(SAMPLE_SECONDS)
        except Exception:
            _log.exception("the live page stands still from here on")


def _put(sample: RecentSample, name: str, labels: Mapping[str, str], value: int) -> None:
    match name:
        case "steerd_requests_running":
            sample.running = value
        case "steerd_requests_waiting":
            sample.waiting = value
        case "steerd_prompt_tokens_total":
            sample.prompt_tokens = value
        case "steerd_generation_tokens_total":
            sample.generated_tokens = value
        case "steerd_requests_total" if labels["rpc"] in _CALLS_THAT_GENERATE:
            outcome = labels["outcome"]
            sample.outcomes[outcome] = sample.outcomes.get(outcome, 0) + value
        case "steerd_monitored_tokens_total":
            sample.monitored[labels["sae"]] = value
        case "steerd_feature_active_tokens_total":
            sample.active[labels["sae"], labels["feature"], labels["alias"]] = value
        case "steerd_feature_threshold_exceeded_total":
            sample.over[labels["sae"], labels["feature"], labels["alias"]] = value
