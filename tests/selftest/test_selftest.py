"""An engine as it is passes every check, on hosts of many kinds."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from steerd.config import Config, EngineConfig, WatchedFeature
from steerd.engine.engine import Engine
from steerd.engine.watch_list import load_watch_list
from steerd.host.host_model import HostModel
from steerd.sae.config_file import Architecture
from steerd.selftest.configured import try_out
from steerd.selftest.report import Report, Status
from steerd.selftest.selftest import selftest
from steerd.steering.loaded_saes import LoadedSaes
from tests.engine.recorder import StepLog, submit
from tests.engine.requests import SHORT, greedy_request
from tests.engine.tape import TapeRecorder
from tests.tiny_hosts import make_tiny_host
from tests.tiny_saes import tiny_sae

SMALL = EngineConfig(kv_cache_gib=0.005, page_size=8)


def served(host: HostModel, *architectures: Architecture) -> LoadedSaes:
    """SAEs after the first layers, all of one hook point from the third on."""
    saes = LoadedSaes(host)
    for number, architecture in enumerate(architectures):
        point = f"blocks.{min(number, 1)}.hook_resid_post"
        saes.add(architecture, tiny_sae(host, point, seed=number, activation=architecture))
    return saes


def unsound(report: Report) -> dict[str, str]:
    """What neither passed nor was skipped, with its remark."""
    sound = (Status.PASSED, Status.SKIPPED)
    return {name: found.remark for name, found in report.findings.items() if found.status not in sound}


def assert_all_compared(report: Report, *, shares: bool = True) -> None:
    """Every check against the engine has a figure within its bound, that of sharing where prompts share."""
    assert unsound(report) == {}, report.table()
    figures = {name for name, found in report.findings.items() if found.worst is not None}
    assert figures >= set(report.findings) - {"graph = eager", "SAE fits the host", "shared = own"}
    assert ("shared = own" in figures) is shares


def test_a_host_with_saes_of_every_kind_passes() -> None:
    host = make_tiny_host("llama")
    saes = served(host, "jumprelu", "topk", "standard")
    watch = load_watch_list([WatchedFeature(sae="topk", index=3, alias="three")], saes)

    report = selftest(host, saes, SMALL, watch, 4)

    assert_all_compared(report)
    assert report.saes == ("jumprelu", "topk", "standard")
    assert report.findings["no-op"].worst == 0


@pytest.mark.parametrize(
    ("architecture", "dtype"),
    [("gemma2", torch.float32), ("mistral", torch.bfloat16), ("llama", torch.bfloat16)],
)
def test_windows_and_16_bits_pass(architecture: str, dtype: torch.dtype) -> None:
    host = make_tiny_host(architecture, dtype=dtype)

    report = selftest(host, served(host, "jumprelu"), SMALL)

    assert_all_compared(report, shares=architecture == "llama")


def test_steps_that_are_recorded_are_compared_with_steps_that_are_not() -> None:
    host = make_tiny_host()
    tapes: list[TapeRecorder] = []

    def make_engine(*parts: Any) -> Engine:
        tapes.append(TapeRecorder())
        return Engine(*parts, recorder=tapes[-1])

    report = selftest(host, served(host, "jumprelu"), SMALL, make_engine=make_engine)

    assert unsound(report) == {}, report.table()
    assert report.findings["graph = eager"].status is Status.PASSED
    assert "steps run from recordings" in report.findings["graph = eager"].remark
    assert tapes[0].replayed > 10


def test_a_host_without_saes_is_steered_along_directions() -> None:
    host = make_tiny_host("llama")

    report = selftest(host, LoadedSaes(host), SMALL)

    assert_all_compared(report)
    assert report.findings["SAE fits the host"].remark == "no SAE"


def test_an_engine_serves_afterwards() -> None:
    host = make_tiny_host("gemma2")  # has no scaled_dot_product_attention to fall back to
    saes = served(host, "jumprelu")
    selftest(host, saes, SMALL)
    engine = Engine(host, saes, SMALL, StepLog())
    engine.start()

    finished = submit(engine, greedy_request("first", SHORT, 3)).wait()

    engine.stop()
    assert finished.generated_tokens == 3


@pytest.mark.real_host
def test_the_default_host_with_the_starters_passes() -> None:
    report = try_out(Config())

    assert_all_compared(report)
    assert report.findings["SAE fits the host"].status is Status.PASSED
