"""The features of the watch list: counters of tokens, and for hot ones each request's largest activation."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from math import nan

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from steerd.engine.events import ActiveEntries, StepReport
from steerd.engine.watch_list import WatchList
from steerd.monitoring.buckets import ACTIVATION_RATIO
from steerd.monitoring.exemplars import exemplar
from steerd.monitoring.request_tallies import RequestFeatures, row_owners
from steerd.sae.feature_label import FeatureLabel

Names = tuple[str, str, str]
_LABELS = ("sae", "feature", "alias")
_LONGEST_LABEL = 120  # bytes; Prometheus drops a whole target for a longer one than it is told to take


@dataclass(frozen=True, slots=True)
class _Series:
    """The children of one feature; `largest` of a hot one."""

    active: Counter
    exceeded: Counter
    largest: Histogram | None


class WatchedMetrics:
    """Counts for one list at a time. A feature that stays in the list keeps its counts; the others' end."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._lock = threading.Lock()  # lists change on another thread than the one that counts
        self._active = Counter(
            "steerd_feature_active_tokens_total",
            "Tokens on which a watched feature was active.",
            _LABELS,
            registry=registry,
        )
        self._exceeded = Counter(
            "steerd_feature_threshold_exceeded_total",
            "Tokens on which a watched feature was above its threshold.",
            _LABELS,
            registry=registry,
        )
        self._trained = Gauge(
            "steerd_feature_training_active_ratio",
            "Share of training tokens on which a watched feature was active, NaN where not recorded.",
            _LABELS,
            registry=registry,
        )
        self._label_score = Gauge(
            "steerd_feature_label_score",
            "How well a hot feature's label tells when it is active, 0.5 for guessing, NaN if untested.",
            (*_LABELS, "label"),
            registry=registry,
        )
        self._largest = Histogram(
            "steerd_request_feature_activation_max",
            "Largest activation in a request of a hot feature, in multiples of its recorded maximum.",
            _LABELS,
            buckets=ACTIVATION_RATIO,
            registry=registry,
        )
        self._series: dict[Names, _Series] = {}
        self._in_order: tuple[WatchList, list[_Series | None]] = (WatchList(), [])
        self.watch = WatchList()

    def change(self, watch: WatchList) -> None:
        """Count for this list from now on, new features from 0."""
        wanted = _names(watch)
        with self._lock:
            for names in self._series.keys() - set(wanted):
                self._remove(names)
            for position, names in enumerate(wanted):
                self._series[names] = self._children(names, watch, position)
            self._in_order = WatchList(), []
            self.watch = watch

    def step_finished(self, report: StepReport) -> None:
        with self._lock:
            self._count(report.watched.active, report)

    def request_finished(self, request_id: str, features: RequestFeatures) -> None:
        """Observe the hot features of a request that ran."""
        watch = features.watch
        with self._lock:
            for position, series in enumerate(self._series_of(watch)):
                if series is not None and series.largest is not None:
                    ratio = features.largest[position] / watch.max_activation[position]
                    series.largest.observe(float(ratio), exemplar(request_id))

    def _count(self, entries: ActiveEntries, report: StepReport) -> None:
        watch = report.watched.watch
        over = entries.values > watch.thresholds[entries.features]
        active_tokens = np.bincount(entries.features, minlength=len(watch)).tolist()
        over_tokens = np.bincount(entries.features[over], minlength=len(watch)).tolist()
        order = np.argsort(entries.values)
        strongest_rows = np.zeros(len(watch), dtype=np.int64)
        strongest_rows[entries.features[order]] = entries.rows[order]  # of several the last one stays
        owners = row_owners(strongest_rows, report.first_rows).tolist()
        in_order = self._series_of(watch)
        for position in np.flatnonzero(active_tokens).tolist():
            series = in_order[position]
            if series is None:
                continue
            series.active.inc(active_tokens[position])
            if over_tokens[position]:
                request_id = report.request_ids[owners[position]]
                series.exceeded.inc(over_tokens[position], exemplar(request_id))

    def _series_of(self, watch: WatchList) -> list[_Series | None]:
        """The series of a list's features in its order; None where the list has changed since."""
        if self._in_order[0] is not watch:
            self._in_order = watch, [self._series.get(names) for names in _names(watch)]
        return self._in_order[1]

    def _children(self, names: Names, watch: WatchList, position: int) -> _Series:
        is_hot = watch.features[position].hot
        before = self._series.get(names)
        if before is not None and before.largest is not None and not is_hot:
            self._largest.remove(*names)
        self._trained.labels(*names).set(watch.density[position])
        self._tell_label(names, watch.labels[position], is_hot=is_hot)
        return _Series(
            self._active.labels(*names),
            self._exceeded.labels(*names),
            self._largest.labels(*names) if is_hot else None,
        )

    def _tell_label(self, names: Names, label: FeatureLabel, *, is_hot: bool) -> None:
        self._label_score.remove_by_labels(dict(zip(_LABELS, names, strict=True)))
        if is_hot:
            child = self._label_score.labels(*names, _cut(label.text))
            child.set(nan if label.score is None else label.score.value)

    def _remove(self, names: Names) -> None:
        for family in (self._active, self._exceeded, self._trained):
            family.remove(*names)
        self._label_score.remove_by_labels(dict(zip(_LABELS, names, strict=True)))
        if self._series.pop(names).largest is not None:
            self._largest.remove(*names)


def _names(watch: WatchList) -> list[Names]:
    """The labels of each feature."""
    return [(feature.sae, str(feature.index), feature.alias) for feature in watch.features]


def _cut(text: str) -> str:
    """The text, or as many of its characters as fit into a label of a series."""
    return text.encode()[:_LONGEST_LABEL].decode(errors="ignore")
