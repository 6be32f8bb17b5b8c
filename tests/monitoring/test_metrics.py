"""What each event does to the series, without a server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from grpc import StatusCode
from prometheus_client import CollectorRegistry, Gauge

from steerd.config import WatchedFeature
from steerd.engine.events import (
    ActiveEntries,
    FailedEvent,
    FeatureUse,
    FinishedEvent,
    SampledRows,
    StepReport,
    Timings,
    WatchedRows,
)
from steerd.engine.faults import Fault
from steerd.engine.request import FinishReason, GenerationRequest, SamplingParams
from steerd.engine.watch_list import WatchList
from steerd.monitoring.metrics import Metrics
from steerd.monitoring.series_budget import MAX_SERIES, num_series
from steerd.steering.intervention import Ablate, FeatureRef, Intervention, Set, unit_direction
from steerd.steering.receipt import InterventionReceipt, Receipt, TriggerReceipt
from steerd.steering.steering import Steering

GREEDY = SamplingParams(max_new_tokens=9, temperature=0.0, top_p=1.0, top_k=0, seed=1)
REQUEST = GenerationRequest(id="r", prompt_ids=(1, 2, 3), sampling=GREEDY)
WATCH = WatchList(
    [WatchedFeature(sae="a", index=7, alias="seventh", threshold=2.0, hot=True)],
    max_activation=[4.0],
    density=[0.125],
)
SEVENTH = {"sae": "a", "feature": "7", "alias": "seventh"}


@dataclass(frozen=True)
class Rpc:
    type: str
    service: str
    method: str


GENERATE = Rpc("server_stream", "steerd.v1.GenerationService", "Generate")
HEALTH = Rpc("unary", "grpc.health.v1.Health", "Check")


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> Metrics:
    made = Metrics(
        registry, model="m", saes=("a", "b"), queue_limit=64, build={"version": "1", "device": "cpu"}
    )
    made.watch(WATCH)
    for rpc in (GENERATE, HEALTH):
        made.rpc_served(rpc)
    return made


def finished(reason: FinishReason = FinishReason.LENGTH, generated_tokens: int = 5) -> FinishedEvent:
    use = FeatureUse(FeatureRef("a", 7), 1.0, 0.5, 2, 0)
    return FinishedEvent(reason, 3, generated_tokens, Timings(0.5, 0.25, 0.08), (use,))


def step(**fields: object) -> StepReport:
    values: dict[str, object] = {
        "duration_seconds": 0.01,
        "prompt_tokens": 0,
        "generated_tokens": 0,
        "batch_size": 1,
        "running": 1,
        "waiting": 0,
        "kv_used_bytes": 25,
        "kv_total_bytes": 100,
        "request_ids": ("r",),
        "first_rows": np.array([0]),
        "first_positions": np.array([0]),
        "new_tokens": {},
        "monitored_tokens": {},
        "sampled": {},
        "watched": WatchedRows(WATCH),
        "steering_seconds": 0.003,
    }
    return StepReport(**(values | fields))  # type: ignore[arg-type]


def entries(rows: Sequence[int], features: Sequence[int], values: Sequence[float]) -> ActiveEntries:
    return ActiveEntries(np.array(rows), np.array(features), np.array(values, dtype=np.float32))


def sampled(rows: Sequence[int], features: Sequence[int], unexplained: Sequence[float]) -> SampledRows:
    active = entries(rows, features, [1.0] * len(rows))
    return SampledRows(np.unique(rows), active, np.array(unexplained, dtype=np.float32))


def test_features_are_seen_once(metrics: Metrics, registry: CollectorRegistry) -> None:
    for features in ([1, 5, 9], [5, 9, 12]):
        metrics.step_finished(step(sampled={"a": sampled([0] * 3, features, [0.1])}))

    assert registry.get_sample_value("steerd_sae_distinct_features_seen", {"sae": "a"}) == 4


def test_a_cancel_is_timed(metrics: Metrics, registry: CollectorRegistry) -> None:
    cancelled = replace(finished(FinishReason.CANCELLED), cancel_seconds=0.02)

    metrics.request_finished(REQUEST, cancelled, None)
    metrics.request_finished(REQUEST, finished(), None)

    assert registry.get_sample_value("steerd_cancellation_latency_seconds_count") == 1
    assert registry.get_sample_value("steerd_cancellation_latency_seconds_sum") == 0.02


@pytest.mark.parametrize(
    ("fault", "name", "labels"),
    [
        (Fault.LOGITS, "steerd_nonfinite_total", {"site": "logits"}),
        (Fault.STEERED_LOGITS, "steerd_nonfinite_total", {"site": "steered_logits"}),
        (Fault.NO_MEMORY_ADMISSION, "steerd_oom_total", {"phase": "admission"}),
        (Fault.NO_MEMORY_DECODE, "steerd_oom_total", {"phase": "decode"}),
    ],
)
def test_faults_are_counted(
    metrics: Metrics, registry: CollectorRegistry, fault: Fault, name: str, labels: dict[str, str]
) -> None:
    metrics.request_finished(REQUEST, FailedEvent(RuntimeError(), fault), None)
    metrics.request_finished(REQUEST, FailedEvent(RuntimeError()), None)

    assert registry.get_sample_value(name, labels) == 1


def test_loaded_saes_are_told_with_their_weights(metrics: Metrics, registry: CollectorRegistry) -> None:
    metrics.sae_loaded("a", "0123456789abcdef")

    labels = {"sae": "a", "sha256_12": "0123456789ab"}
    assert registry.get_sample_value("steerd_sae_generation_info", labels) == 1
    assert registry.get_sample_value("steerd_sae_loads_total", {"result": "ok"}) == 1
    assert registry.get_sample_value("steerd_sae_loads_total", {"result": "error"}) == 0


def test_a_reload_takes_the_place_of_what_was_told_before(
    metrics: Metrics, registry: CollectorRegistry
) -> None:
    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"steerd_sae_{name}", {"sae": "a", **labels})

    metrics.sae_loaded("a", "0123456789abcdef")
    metrics.step_finished(step(sampled={"a": sampled([0] * 3, [1, 5, 9], [0.1])}))
    metrics.sae_reload_failed("a")
    assert (value("reload_failures_total"), value("reload_failing")) == (1, 1)
    assert value("generation_info", sha256_12="0123456789ab") == 1

    metrics.sae_loaded("a", "f" * 16)
    metrics.step_finished(step(sampled={"a": sampled([0], [2], [0.1])}))

    assert (value("reload_failures_total"), value("reload_failing")) == (1, 0)
    assert value("generation_info", sha256_12="0123456789ab") is None
    assert value("generation_info", sha256_12="f" * 12) == 1
    assert value("distinct_features_seen") == 1


@pytest.mark.usefixtures("metrics")
def test_every_series_that_can_be_known_starts_at_zero(registry: CollectorRegistry) -> None:
    def zero(name: str, **labels: str) -> bool:
        return registry.get_sample_value(name, labels) == 0

    assert zero("steerd_requests_total", model="m", rpc="Generate", outcome="error")
    assert zero("steerd_requests_rejected_total", reason="queue_full")
    assert zero("steerd_finish_reason_total", model="m", reason="stop_sequence")
    assert zero("steerd_steering_applied_tokens_total", sae="b", mode="ablate")
    assert zero("steerd_feature_active_tokens_total", **SEVENTH)
    assert zero("steerd_request_feature_activation_max_count", **SEVENTH)
    assert registry.get_sample_value("steerd_feature_training_active_ratio", SEVENTH) == 0.125
    assert zero("steerd_time_to_first_token_seconds_count", model="m")
    assert zero(
        "grpc_server_handled_total",
        grpc_type="server_stream",
        grpc_service="steerd.v1.GenerationService",
        grpc_method="Generate",
        grpc_code="INTERNAL",
    )


def test_a_step_counts_tokens_and_features(metrics: Metrics, registry: CollectorRegistry) -> None:
    metrics.read_load(lambda: 1, lambda: 0, lambda: 0)
    metrics.step_finished(
        step(
            prompt_tokens=10,
            generated_tokens=2,
            batch_size=3,
            monitored_tokens={"a": 12, "b": 12},
            sampled={"a": sampled([1] * 3 + [4] * 40, range(43), [0.25, np.nan])},
            watched=WatchedRows(WATCH, entries([0, 2, 3, 5], [0] * 4, [0.5, 2.0, 2.5, 1.0])),
        )
    )

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, labels)

    assert value("steerd_prompt_tokens_total", model="m") == 10
    assert value("steerd_generation_tokens_total", model="m") == 2
    assert value("steerd_engine_steps_total") == 1
    assert value("steerd_engine_batch_size_sum") == 3
    assert value("steerd_kv_cache_usage_ratio", model="m") == 0.25
    assert value("steerd_kv_cache_bytes", model="m") == 100
    assert value("steerd_monitored_tokens_total", sae="b") == 12
    assert value("steerd_sae_active_features_bucket", sae="a", le="5.0") == 1
    assert value("steerd_sae_active_features_count", sae="a") == 2
    assert value("steerd_sae_unexplained_variance_ratio_sum", sae="a") == 0.25
    assert value("steerd_sae_unexplained_variance_ratio_count", sae="a") == 1
    assert value("steerd_nonfinite_total", site="resid") == 1
    assert value("steerd_sae_distinct_features_seen", sae="a") == 43
    assert value("steerd_steering_overhead_seconds_sum") == 0.003
    assert value("steerd_feature_active_tokens_total", **SEVENTH) == 4
    assert value("steerd_feature_threshold_exceeded_total", **SEVENTH) == 1


def test_edits_are_counted_when_their_request_ends(metrics: Metrics, registry: CollectorRegistry) -> None:
    along = unit_direction("blocks.1.hook_resid_post", [1.0])
    interventions = (
        Intervention(target=FeatureRef("b", 1), operation=Set(1.0)),
        Intervention(target=FeatureRef("b", 2), operation=Set(1.0)),
        Intervention(target=along, operation=Ablate()),
    )
    request = replace(REQUEST, steering=Steering(interventions=interventions))
    receipts = tuple(InterventionReceipt(rows, 0, 0.0, 0.0, 0.0) for rows in (6, 3, 4))

    metrics.request_finished(request, replace(finished(), receipt=Receipt(receipts)), None)
    metrics.request_finished(request, finished(FinishReason.CANCELLED), None)  # before it began
    metrics.request_finished(request, FailedEvent(RuntimeError()), None)

    def applied(sae: str, mode: str) -> float | None:
        return registry.get_sample_value("steerd_steering_applied_tokens_total", {"sae": sae, "mode": mode})

    assert (applied("b", "set"), applied("(directions)", "ablate"), applied("a", "set")) == (9, 4, 0)


def test_a_finished_request_is_timed_once(metrics: Metrics, registry: CollectorRegistry) -> None:
    metrics.first_token(REQUEST, 0.75)
    metrics.request_finished(REQUEST, finished(), None)

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, {"model": "m", **labels})

    assert value("steerd_finish_reason_total", reason="length") == 1
    assert value("steerd_time_to_first_token_seconds_sum") == 0.75
    assert value("steerd_time_per_output_token_seconds_sum") == pytest.approx(
        0.02
    )  # 0.08 s for 4 more tokens
    assert value("steerd_queue_time_seconds_sum") == 0.5
    assert value("steerd_prefill_time_seconds_sum") == 0.25
    assert value("steerd_decode_time_seconds_sum") == 0.08
    assert value("steerd_request_prompt_tokens_sum") == 3
    assert value("steerd_request_generation_tokens_sum") == 5


def test_one_token_has_no_time_per_output_token(metrics: Metrics, registry: CollectorRegistry) -> None:
    metrics.request_finished(REQUEST, finished(generated_tokens=1), None)

    assert registry.get_sample_value("steerd_time_per_output_token_seconds_count", {"model": "m"}) == 0


def test_cancelled_and_failed_requests_are_not_timed(metrics: Metrics, registry: CollectorRegistry) -> None:
    metrics.request_finished(REQUEST, finished(FinishReason.CANCELLED), None)
    metrics.request_finished(REQUEST, FailedEvent(RuntimeError()), None)

    assert registry.get_sample_value("steerd_decode_time_seconds_count", {"model": "m"}) == 0
    assert registry.get_sample_value("steerd_finish_reason_total", {"model": "m", "reason": "cancelled"}) == 1


@pytest.mark.parametrize(
    ("code", "outcome", "timed"),
    [("OK", "ok", "ok"), ("INTERNAL", "error", "error"), ("CANCELLED", "cancelled", None)],
)
def test_an_rpc_is_counted_by_code_and_outcome(
    metrics: Metrics, registry: CollectorRegistry, code: str, outcome: str, timed: str | None
) -> None:
    labels = {
        "grpc_type": GENERATE.type,
        "grpc_service": GENERATE.service,
        "grpc_method": GENERATE.method,
    }

    metrics.rpc_started(GENERATE)
    metrics.rpc_finished(GENERATE, code=code, outcome=outcome, seconds=0.5, request_id="r")

    def count(name: str, **names: str) -> float | None:
        return registry.get_sample_value(name, names)

    assert count("grpc_server_started_total", **labels) == 1
    assert count("grpc_server_handled_total", **labels, grpc_code=code) == 1
    assert count("grpc_server_handling_seconds_sum", **labels) == 0.5
    assert count("steerd_requests_total", model="m", rpc="Generate", outcome=outcome) == 1
    for name in ("ok", "error"):
        expected = 1 if name == timed else 0
        assert count("steerd_request_duration_seconds_count", model="m", outcome=name) == expected


def test_health_checks_are_no_requests(metrics: Metrics, registry: CollectorRegistry) -> None:
    metrics.rpc_started(HEALTH)
    metrics.rpc_finished(HEALTH, code="OK", outcome="ok", seconds=0.001, request_id="")

    labels = {"model": "m", "rpc": "Check", "outcome": "ok"}
    assert registry.get_sample_value("steerd_requests_total", labels) is None


def test_an_rpc_that_is_no_request_costs_eight_series_until_it_ends_in_rare_ways(
    metrics: Metrics, registry: CollectorRegistry
) -> None:
    before, labels = num_series(registry), {"grpc_service": "steerd.v1.More", "grpc_method": "Look"}
    look = Rpc("unary", "steerd.v1.More", "Look")

    metrics.rpc_served(look)
    idle = num_series(registry)
    metrics.rpc_finished(look, code="NOT_FOUND", outcome="invalid", seconds=0.25, request_id="")
    metrics.rpc_finished(look, code="DATA_LOSS", outcome="error", seconds=0.5, request_id="")

    def handled(code: str) -> float | None:
        names = {"grpc_type": "unary", **labels, "grpc_code": code}
        return registry.get_sample_value("grpc_server_handled_total", names)

    assert idle - before == 8
    assert num_series(registry) == idle + 2
    assert (handled("INTERNAL"), handled("NOT_FOUND"), handled("UNKNOWN")) == (0, 1, 1)
    assert registry.get_sample_value("steerd_rpc_seconds_total", {"grpc_type": "unary", **labels}) == 0.75

    for code in ("UNAVAILABLE", "ALREADY_EXISTS", "NOT_FOUND", "UNIMPLEMENTED", "PERMISSION_DENIED"):
        metrics.rpc_finished(look, code=code, outcome="invalid", seconds=0.0, request_id="")
    assert num_series(registry) == idle + 4
    assert (handled("NOT_FOUND"), handled("ALREADY_EXISTS"), handled("UNKNOWN")) == (2, 1, 3)


def test_a_watch_list_leaves_room_for_the_ends_that_no_rpc_has_had_yet(
    metrics: Metrics, registry: CollectorRegistry
) -> None:
    """Whether a list is refused does not depend on when it is asked for."""
    filler = Gauge("filler", "Takes room.", ("number",), registry=registry)
    rare_ends = 4  # of a health check; those of Generate are all there
    for number in range(MAX_SERIES + 3 - rare_ends - num_series(registry)):
        filler.labels(str(number))
    told = metrics.over_budget(WATCH)

    for rpc in (GENERATE, HEALTH):
        for code in StatusCode:
            metrics.rpc_finished(rpc, code=code.name, outcome="error", seconds=0.1, request_id="")

    assert num_series(registry) == MAX_SERIES + 3
    assert told is not None
    assert metrics.over_budget(WATCH) == told


def test_an_unexpected_reason_makes_no_new_series(metrics: Metrics, registry: CollectorRegistry) -> None:
    metrics.request_rejected("QUEUE_FULL")
    metrics.request_rejected("SOMETHING_NEW")

    assert registry.get_sample_value("steerd_requests_rejected_total", {"reason": "queue_full"}) == 1
    assert registry.get_sample_value("steerd_requests_rejected_total", {"reason": "other"}) == 1


def test_triggers_are_counted_once_a_request(metrics: Metrics, registry: CollectorRegistry) -> None:
    def fired(action: str, source: str) -> TriggerReceipt:
        return TriggerReceipt("name", action, source, times=5, first_position=2)

    def ended(*uses: TriggerReceipt) -> FinishedEvent:
        return replace(finished(), receipt=Receipt(fired=uses))

    uses = (
        fired("stop", ""),
        fired("flag", "policy:p@1"),
        fired("flag", "policy:q@1"),
        fired("switch", "preset:r@1"),
    )
    for event in (ended(), ended(*uses), ended(*uses[:2])):
        metrics.request_finished(REQUEST, event, None)

    def count(action: str, source: str) -> float | None:
        labels = {"model": "m", "action": action, "source": source}
        return registry.get_sample_value("steerd_triggers_fired_total", labels)

    counts = {
        (action, source): count(action, source)
        for action in ("stop", "flag", "switch")
        for source in ("client", "preset", "policy")
    }
    assert {names: value for names, value in counts.items() if value} == {
        ("stop", "client"): 2,
        ("flag", "policy"): 3,
        ("switch", "preset"): 1,
    }
    assert None not in counts.values()


def test_the_load_is_asked_for_at_every_scrape(metrics: Metrics, registry: CollectorRegistry) -> None:
    load = [3, 2, 1]
    metrics.read_load(lambda: load[0], lambda: load[1], lambda: load[2])

    load[0] = 4

    assert registry.get_sample_value("steerd_requests_running", {"model": "m"}) == 4
    assert registry.get_sample_value("steerd_requests_waiting", {"model": "m"}) == 2
    assert registry.get_sample_value("steerd_studies_running", {"model": "m"}) == 1
    assert registry.get_sample_value("steerd_queue_limit") == 64


def test_the_memory_of_a_device_is_asked_for_at_every_scrape(
    metrics: Metrics, registry: CollectorRegistry
) -> None:
    allocated = [5]
    metrics.read_device_memory("cuda:0", {"allocated": lambda: allocated[0], "limit": lambda: 100})

    allocated[0] = 7

    def value(kind: str) -> float | None:
        return registry.get_sample_value("steerd_device_memory_bytes", {"device": "cuda:0", "kind": kind})

    assert (value("allocated"), value("limit")) == (7, 100)


def test_memory_is_free_once_nothing_runs(metrics: Metrics, registry: CollectorRegistry) -> None:
    running = [1]
    metrics.read_load(lambda: running[0], lambda: 0, lambda: 0)
    metrics.step_finished(step())

    running[0] = 0

    assert registry.get_sample_value("steerd_kv_cache_usage_ratio", {"model": "m"}) == 0
