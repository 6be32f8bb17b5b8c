"""What the sweep asks of its engines, and a whole run of it on a tiny host."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from benchmarks.k_sweep import Bench, Sizes, measure, ratio
from benchmarks.layer_saes import configurations, layer_saes, ordinary_tokens, spread_layers, watch_list
from benchmarks.report import Report
from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel
from steerd.steering.intervention import FeatureRef

SIZES = Sizes(batch=3, context=6, steps=3, counts=(0, 2), layers=(3,), watched=8, top_k=4)


def test_a_sweep_measures_every_place_on_the_map(
    tiny_host: HostModel, capsys: pytest.CaptureFixture[str]
) -> None:
    report = Report("k_sweep", out=None, console=Console(file=io.StringIO()))
    bench = Bench(tiny_host, layer_saes(tiny_host, 64, {}), SIZES)

    measure(report, bench)
    report.finish()

    asked = [f"k_{k}_layers_3_watched_{w}" for k, w in ((0, 8), (2, 0), (2, 8))]
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == [
        "idle_over_best_plain",
        *(f"asked_over_idle.{name}" for name in asked),
        "monitoring_over_arithmetic.one",
        "monitoring_over_arithmetic.all",
    ]


@pytest.mark.parametrize(("count", "layers"), [(1, (14,)), (4, (3, 10, 18, 25)), (30, tuple(range(30)))])
def test_layers_are_spread_evenly(count: int, layers: tuple[int, ...]) -> None:
    assert spread_layers(30, count) == layers


def test_no_feature_is_steered_twice_at_a_layer_nor_watched_as_well(tiny_host: HostModel) -> None:
    saes = layer_saes(tiny_host, 128, {})
    steered = [edit.target for configuration in configurations(saes, (0, 2), 32) for edit in configuration]
    watched = [FeatureRef(watch.sae, watch.index) for watch in watch_list(saes, (0, 2), 100)]

    assert len(set(steered)) == 64
    assert len(set(watched)) == 100
    assert not set(steered) & set(watched)


def test_a_ratio_is_of_steps_of_the_same_round() -> None:
    seconds = {"ours": [1.0, 10.0, 4.0], "theirs": [2.0, 20.0, 4.0]}

    assert ratio(seconds, "ours", "theirs") == 2.0


def test_a_random_sae_is_as_sparse_as_trained_ones(tiny_host: HostModel) -> None:
    tokens = ordinary_tokens(tiny_host, 400)[:, 256:]
    for bundle in layer_saes(tiny_host, 256, {}):
        point = HookPoint.parse(bundle.metadata.hook_point)
        rows = tiny_host.activations(tokens, None, [point])[point][0]
        assert 1 / 64 < float((bundle.sae.encode(rows) > 0).float().mean()) < 1 / 16
