"""The series of watched features: which there are, what they count, and what leads to a request."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from math import isnan

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from steerd.config import WatchedFeature
from steerd.engine.events import ActiveEntries, StepReport, WatchedRows
from steerd.engine.watch_list import WatchList
from steerd.monitoring.request_tallies import RequestTallies
from steerd.monitoring.series_budget import MAX_SERIES, cost, num_series, over_budget
from steerd.monitoring.watched_metrics import WatchedMetrics
from steerd.sae.feature_label import FeatureLabel, LabelScore


def feature(index: int, *, alias: str = "", threshold: float = 0.0, hot: bool = False) -> WatchedFeature:
    return WatchedFeature(sae="a", index=index, alias=alias or f"f{index}", threshold=threshold, hot=hot)


def watch_list(*features: WatchedFeature) -> WatchList:
    return WatchList(features, max_activation=[4.0] * len(features), density=[0.5] * len(features))


def step(
    watch: WatchList,
    requests: dict[str, Sequence[Sequence[float]]],
    *,
    first_positions: Sequence[int] = (),
    new_tokens: dict[str, int] | None = None,
) -> StepReport:
    """A step of these requests: activations [rows, watched] of each."""
    acts = np.array([row for rows in requests.values() for row in rows], dtype=np.float32)
    rows, features = np.nonzero(acts)
    lengths = [len(rows) for rows in requests.values()]
    return StepReport(
        duration_seconds=0.1,
        prompt_tokens=0,
        generated_tokens=0,
        batch_size=len(requests),
        running=len(requests),
        waiting=0,
        kv_used_bytes=1,
        kv_total_bytes=2,
        request_ids=tuple(requests),
        first_rows=np.cumsum([0, *lengths[:-1]]),
        first_positions=np.array(first_positions or [1] * len(requests)),
        new_tokens=new_tokens or {},
        monitored_tokens={},
        sampled={},
        steering_seconds=0.0,
        watched=WatchedRows(watch, ActiveEntries(rows, features, acts[rows, features])),
    )


class Watched:
    """Metrics and tallies told together, as the monitor tells them."""

    def __init__(self, watch: WatchList) -> None:
        self.registry = CollectorRegistry()
        self.metrics = WatchedMetrics(self.registry)
        self.metrics.change(watch)
        self.tallies = RequestTallies()

    def step(self, report: StepReport) -> None:
        self.tallies.add(report)
        self.metrics.step_finished(report)

    def end(self, request_id: str) -> None:
        features = self.tallies.take(request_id)
        assert features is not None
        self.metrics.request_finished(request_id, features)

    def value(self, name: str, index: int, alias: str = "", **labels: str) -> float | None:
        names = {"sae": "a", "feature": str(index), "alias": alias or f"f{index}"}
        return self.registry.get_sample_value(name, names | labels)

    def exemplars(self, name: str) -> Iterator[tuple[dict[str, str], str, float]]:
        """Labels, request and value of each exemplar of the samples of a name."""
        for family in text_string_to_metric_families(generate_latest(self.registry).decode()):
            for sample in family.samples:
                if sample.name == name and sample.exemplar is not None:
                    yield sample.labels, sample.exemplar.labels["request_id"], sample.exemplar.value


def test_random_steps_are_counted_as_by_hand() -> None:
    chance = random.Random(5)
    watch = watch_list(feature(3, threshold=1.0), feature(9, threshold=0.0, hot=True), feature(12, hot=True))
    watched = Watched(watch)
    seen: dict[str, list[list[float]]] = {}
    for _ in range(30):
        requests = chance.sample(["a", "b", "c", "d", ""], chance.randint(1, 5))
        acts = {
            request: [
                [chance.choice([0.0, chance.uniform(0, 6)]) for _ in watch.features]
                for _ in range(chance.randint(1, 4))
            ]
            for request in requests
        }
        for request, rows in acts.items():
            seen.setdefault(request, []).extend(rows)
        watched.step(step(watch, acts))

    ran = sorted(seen.keys() - {""})
    for request in ran:
        watched.end(request)

    every_row = [row for rows in seen.values() for row in rows]
    for position, index in enumerate((3, 9, 12)):
        threshold = watch.features[position].threshold
        values = [row[position] for row in every_row]
        assert watched.value("steerd_feature_active_tokens_total", index) == sum(v > 0 for v in values)
        over = sum(np.float32(v) > threshold for v in values)
        assert watched.value("steerd_feature_threshold_exceeded_total", index) == over
    largest = [max(np.float32(row[1]) for row in seen[request]) / 4.0 for request in ran]
    name = "steerd_request_feature_activation_max"
    assert watched.value(f"{name}_count", 9) == len(ran)
    assert watched.value(f"{name}_sum", 9) == pytest.approx(sum(largest))
    assert watched.value(f"{name}_bucket", 9, le="0.75") == sum(ratio <= 0.75 for ratio in largest)
    assert watched.value(f"{name}_count", 3) is None


def test_exemplars_lead_to_the_strongest_request() -> None:
    watch = watch_list(feature(3, threshold=1.0, hot=True))
    watched = Watched(watch)

    watched.step(step(watch, {"mild": [[1.5]], "wild": [[0.2], [3.0]], "": [[2.0]]}))
    watched.end("mild")
    watched.end("wild")

    (exceeded,) = watched.exemplars("steerd_feature_threshold_exceeded_total")
    assert exceeded[1:] == ("wild", 3.0)
    largest = {
        labels["le"]: (request, value)
        for labels, request, value in watched.exemplars("steerd_request_feature_activation_max_bucket")
    }
    assert largest == {"0.5": ("mild", 0.375), "0.75": ("wild", 0.75)}


def test_an_id_too_long_for_an_exemplar_still_counts() -> None:
    watch = watch_list(feature(3, hot=True))
    watched = Watched(watch)

    watched.step(step(watch, {"x" * 200: [[1.5]]}))
    watched.end("x" * 200)

    assert watched.value("steerd_feature_threshold_exceeded_total", 3) == 1
    assert list(watched.exemplars("steerd_feature_threshold_exceeded_total")) == []


def test_a_changed_list_keeps_what_stays_and_ends_what_goes() -> None:
    first = watch_list(feature(3, hot=True), feature(9), feature(12, hot=True))
    second = watch_list(
        feature(40), feature(12, threshold=9.0), feature(3, hot=True), feature(9, alias="new")
    )
    watched = Watched(first)
    watched.step(step(first, {"r": [[2.0, 1.0, 1.0]]}))

    watched.metrics.change(second)
    watched.step(step(first, {"r": [[1.0, 1.0, 0.0]]}))  # was on its way
    watched.step(step(second, {"r": [[7.0, 8.0, 1.0, 1.0]]}))
    watched.end("r")

    name = "steerd_feature_active_tokens_total"
    assert watched.value(name, 3) == 3
    assert watched.value(name, 9) is None
    assert watched.value(name, 9, alias="new") == 1
    assert watched.value(name, 12) == 2
    assert watched.value(name, 40) == 1
    assert watched.value("steerd_feature_threshold_exceeded_total", 12) == 1
    assert watched.value("steerd_request_feature_activation_max_count", 12) is None
    # The largest activation was read while the first list stood.
    assert watched.value("steerd_request_feature_activation_max_sum", 3) == 0.5
    assert num_series(watched.registry) == cost(second)


def test_a_rate_that_is_not_recorded_is_not_a_number() -> None:
    watched = Watched(WatchList([feature(3)]))

    value = watched.value("steerd_feature_training_active_ratio", 3)

    assert value is not None
    assert isnan(value)


def test_a_hot_features_label_is_exported_with_its_score_and_never_twice() -> None:
    def listed(text: str, score: float | None, *, hot: bool = True) -> WatchList:
        scores = () if score is None else (LabelScore("tokens", score, 9),)
        return WatchList([feature(3, hot=hot)], labels=[FeatureLabel(text, scores)], max_activation=[2.0])

    def exported() -> dict[str, float]:
        return {
            sample.labels["label"]: sample.value
            for family in watched.registry.collect()
            for sample in family.samples
            if sample.name == "steerd_feature_label_score"
        }

    watched = Watched(listed("tea", 0.75))
    assert exported() == {"tea": 0.75}
    assert num_series(watched.registry) == cost(watched.metrics.watch)

    watched.metrics.change(listed("☃" * 50, None))
    ((text, value),) = exported().items()
    assert (text, isnan(value)) == ("☃" * 40, True)  # 120 bytes

    watched.metrics.change(listed("tea", 0.75, hot=False))
    assert exported() == {}
    watched.metrics.change(listed("tea", 0.75))
    watched.metrics.change(WatchList())
    assert exported() == {}


def test_the_budget_is_kept_to_the_series() -> None:
    watch = watch_list(*(feature(index, hot=index < 48) for index in range(256)))
    watched = Watched(watch)

    assert num_series(watched.registry) == cost(watch)
    assert over_budget(watch, others=MAX_SERIES - cost(watch)) is None
    problem = over_budget(watch, others=MAX_SERIES - cost(watch) + 1)
    assert problem is not None
    assert f"costs {cost(watch)} series" in problem
    assert f"room for {cost(watch) - 1}" in problem
