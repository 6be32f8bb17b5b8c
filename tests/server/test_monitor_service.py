"""What features do now, as a client sees it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from steerd.__main__ import main
from steerd.client import Client
from steerd.client_channel import RemoteError
from steerd.config import MonitoringConfig, WatchedFeature
from steerd.engine.watch_list import WatchList
from steerd.errors import Overloaded
from steerd.monitoring.activity import MAX_WATCHERS, Activity
from steerd.pb.v1 import generation_service_pb2 as pb
from steerd.sae.feature_label import FeatureLabel
from tests.monitoring.test_watched_metrics import feature, step, watch_list
from tests.server.running_server import RunningServer, tiny_config, tiny_parts

WATCHED = WatchedFeature(sae="late", index=3, alias="third", threshold=0.5)
ASKED = pb.GenerateRequest(prompt="the cat sat", sampling=pb.SamplingParams(max_new_tokens=6))


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    monitoring = MonitoringConfig(port=0, sample_every=1, watch=(WATCHED,), request_log="off")
    with RunningServer(tiny_config(monitoring=monitoring), *tiny_parts()) as running:
        yield running


def test_snapshots_add_up_to_what_the_metrics_count(server: RunningServer) -> None:
    name = "steerd_feature_active_tokens_total"
    tokens = active = over = 0
    largest = 0.0
    with Client(server.address) as client:
        snapshots = client.watch_activations(interval_ms=100)
        next(snapshots)
        counted = server.total(name, alias="third"), server.total("steerd_monitored_tokens_total", sae="late")
        server.generate(ASKED)
        for snapshot in snapshots:
            (third,) = snapshot.features
            tokens += snapshot.tokens
            active += third.active_tokens
            over += third.over_threshold_tokens
            largest = max(largest, third.max_activation)
            if tokens >= 15:
                break
        snapshots.close()

    assert third.alias == "third"
    assert tokens == server.total("steerd_monitored_tokens_total", sae="late") - counted[1] == 11 + 5 - 1
    assert active == server.total(name, alias="third") - counted[0]
    assert over == server.total("steerd_feature_threshold_exceeded_total", alias="third")
    assert largest > 0.5 or over == 0


def test_the_strongest_features_are_told(server: RunningServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.generate(ASKED)
    server.scrape()  # waits for the monitor

    with Client(server.address) as client:
        found = client.top_features(seconds=60, limit=3)
    assert main(["top", "--limit", "2", "--address", server.address]) == 0

    assert 0 < len(found) <= 6
    assert {top.feature.sae for top in found} <= {"early", "late"}
    assert all(top.strength > top.usual_strength for top in found)
    assert found[0].label == FeatureLabel(f"label of {found[0].feature.index}")
    assert f"{found[0].label.text} [untested]" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [{"seconds": 61}, {"limit": 101}])
def test_what_cannot_be_asked_is_refused(server: RunningServer, arguments: dict[str, int]) -> None:
    with Client(server.address) as client, pytest.raises(RemoteError, match=next(iter(arguments))):
        client.top_features(**arguments)


@pytest.mark.parametrize("interval_ms", [99, 60_001])
def test_an_interval_has_bounds(server: RunningServer, interval_ms: int) -> None:
    with Client(server.address) as client, pytest.raises(RemoteError, match="interval_ms"):
        next(client.watch_activations(interval_ms))


def test_a_reader_that_takes_nothing_costs_nothing_and_loses_nothing_but_time() -> None:
    now = [10.0]
    activity = Activity(clock=lambda: now[0])
    watch = watch_list(feature(3, threshold=1.0), feature(9))

    with activity.watching(watch) as watcher:
        for _ in range(1000):
            now[0] += 0.5
            activity.step_finished(step(watch, {"a": [[2.0, 0.0]], "b": [[0.5, 3.0]]}))
        snapshot, empty = watcher.take(), watcher.take()

    assert snapshot.seconds == 500
    assert snapshot.active.tolist() == [2000, 1000]
    assert snapshot.over.tolist() == [1000, 1000]
    assert snapshot.largest.tolist() == [2.0, 3.0]
    assert empty.active.tolist() == [0, 0]
    assert np.all(empty.largest == 0)


def test_another_list_begins_anew() -> None:
    activity = Activity()
    old, new = watch_list(feature(3)), watch_list(feature(5), feature(6))

    with activity.watching(old) as watcher:
        activity.step_finished(step(old, {"a": [[2.0]]}))
        activity.step_finished(step(new, {"a": [[0.0, 4.0]]}))
        snapshot = watcher.take()

    assert snapshot.watch is new
    assert snapshot.active.tolist() == [0, 1]


def test_watchers_are_few() -> None:
    activity = Activity()

    def watch(others: int) -> None:
        with activity.watching(WatchList()):
            if others:
                watch(others - 1)

    watch(MAX_WATCHERS - 1)
    with pytest.raises(Overloaded, match="16 watch already"):
        watch(MAX_WATCHERS)
    watch(MAX_WATCHERS - 1)
