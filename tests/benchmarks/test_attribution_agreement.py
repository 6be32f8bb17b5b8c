"""What the benchmark measures, on a tiny host; the peer's side runs in an environment of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.attribution_agreement import add_controls, add_methods
from benchmarks.attribution_nodes import METHODS, RANDOM, STRONGEST, measure
from benchmarks.attribution_peer import PeerJob, PeerPrompt, read_job
from benchmarks.report import Report
from tests.studies.attribution.tiny_prompts import loaded, random_ids
from tests.tiny_hosts import make_tiny_host


def test_every_method_predicts_the_nodes_that_are_taken_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    host = make_tiny_host()
    saes = loaded(host, "blocks.0.hook_resid_post", "blocks.1.hook_resid_post")

    found = [measure(host, saes, f"prompt {seed}", random_ids(seed)) for seed in range(2)]
    report = Report("agreement", out=tmp_path / "agreement.json")
    add_methods(report, saes, found)
    add_controls(report, found)
    report.finish()

    for each in found:
        assert len(set(each.nodes)) == len(each.nodes) == len(each.measured)
        assert STRONGEST + RANDOM <= len(each.nodes) <= 2 * STRONGEST + RANDOM
        assert each.predicted.keys() == METHODS.keys()
        assert {len(effects) for effects in each.predicted.values()} == {len(each.nodes)}
        assert each.value > 0
        assert max(map(abs, each.inactive)) < 1e-3
    written = json.loads((tmp_path / "agreement.json").read_text())
    assert {target["name"] for target in written["targets"]} == {
        "nodes_taken_out",
        "integrated_gradients_rank_correlation",
        "rank_correlation_with_other_nodes_effects",
        "inactive_over_strongest",
    }
    by_name = {row["method"]: row["rank correlation"] for row in next(iter(written["rows"].values()))}
    assert by_name["integrated gradients"] > 0.8 > abs(by_name["direct"])
    assert "integrated_gradients_rank_correlation" in capsys.readouterr().out


def test_a_job_is_read_as_it_was_written(tmp_path: Path) -> None:
    prompt = PeerPrompt(token_ids=[1, 2], target=3, against=4, nodes=[[0, 5]])
    job = PeerJob(host_folder="host", sae_folder="sae", layer=9, prompts=[prompt])

    job.write(tmp_path / "job.json")

    assert read_job(tmp_path / "job.json") == job
