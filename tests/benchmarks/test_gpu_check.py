"""What the GPU's check asks, tried on a tiny host with a stand-in for CUDA graphs."""

from __future__ import annotations

import io
import sys

import pytest
import torch
from rich.console import Console

from benchmarks import gpu_check
from benchmarks.gpu_check import check_recorded, check_rounding, check_selftest, measure_speed
from benchmarks.k_sweep import Sizes
from benchmarks.layer_saes import layer_saes
from benchmarks.report import Report
from steerd.config import EngineConfig
from steerd.host.host_model import HostModel
from tests.engine.tape import TapeRecorder
from tests.tiny_hosts import make_tiny_host

SIZES = Sizes(batch=3, context=6, steps=2, counts=(2,), layers=(1,), watched=4, top_k=4)


def targets(report: Report, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """How each ended, by name."""
    report.finish()
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    return {words[1]: words[-1] for words in lines if words[0] == "target"}


@pytest.fixture
def report() -> Report:
    return Report("gpu_check", out=None, console=Console(file=io.StringIO()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_stand_in_passes_what_is_checked(
    dtype: torch.dtype, report: Report, capsys: pytest.CaptureFixture[str]
) -> None:
    host = make_tiny_host(dtype=dtype)
    saes = layer_saes(host, 64, {})

    check_recorded(report, host, saes, TapeRecorder)
    check_rounding(report, host, saes[1])

    name = str(dtype).removeprefix("torch.")
    expected = {f"recorded_gap.{name}": "ok", f"replayed_share.{name}": "ok"}
    if dtype == torch.bfloat16:
        expected["rounded_once.bfloat16"] = "ok"
    assert targets(report, capsys) == expected


def test_the_selftest_counts_as_recorded_only_where_it_was(
    tiny_host: HostModel, report: Report, capsys: pytest.CaptureFixture[str]
) -> None:
    config = EngineConfig(kv_cache_gib=0.005, page_size=8)
    check_selftest(report, tiny_host, layer_saes(tiny_host, 64, {})[:1], config)

    expected = {"failed_checks.float32": "ok", "recorded_steps_checked.float32": "short"}
    assert targets(report, capsys) == expected


def test_speed_is_of_steps_side_by_side(
    tiny_host: HostModel, report: Report, capsys: pytest.CaptureFixture[str]
) -> None:
    measure_speed(report, tiny_host, layer_saes(tiny_host, 64, {}), SIZES)

    assert list(targets(report, capsys)) == [
        "recorded_over_not_recorded",
        "asked_over_idle.k_2_layers_1_watched_0",
        "asked_over_idle.k_2_layers_1_watched_4",
    ]


def test_without_a_gpu_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu_check"])

    with pytest.raises(SystemExit) as ended:
        gpu_check.main()

    assert ended.value.code == 2
    assert "needs a CUDA device" in capsys.readouterr().err
