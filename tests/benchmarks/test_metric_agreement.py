from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch

from benchmarks.metric_agreement import Subject, compare, measure, ordinary_blocks, token_ids
from benchmarks.metric_peers.job import BlockStore, Job
from benchmarks.report import Report
from sae_train.evaluation.evaluation import Record
from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel
from tests.tiny_saes import random_sae


def job_of(token_ids: list[list[int]]) -> Job:
    return Job(
        sae_folder="sae",
        host_folder="host",
        layer_module="model.layers.1",
        layer=1,
        d_sae=64,
        token_ids=token_ids,
        first_id=0,
    )


def test_blocks_begin_with_the_one_special_token(tiny_host: HostModel, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("some words " * 10)
    options = argparse.Namespace(text=[tmp_path / "text.txt"], context=9, blocks=11, quick=False)

    blocks = token_ids(tiny_host, options)

    first = min(tiny_host.special_token_ids)
    assert [len(ids) for ids in blocks] == [9] * 11
    assert all(ids.count(first) == 1 and ids[0] == first for ids in blocks)


def test_blocks_with_an_outlier_are_passed_over(tiny_host: HostModel) -> None:
    hook_point, place = HookPoint(layer=1, site="resid_post"), 3

    def lengthen(resid: torch.Tensor) -> torch.Tensor:
        """What the host makes of token 99 is a hundred times as long."""
        factors = torch.ones(len(resid), 1)
        factors[place] = 100.0 if seen.pop(0) else 1.0
        return factors * resid

    blocks = [[0, 5, 6, token_id] for token_id in (7, 99, 8, 9, 10, 11)]
    seen = [ids[place] == 99 for ids in blocks]
    handle = tiny_host.attach(hook_point, lengthen)
    try:
        chosen = ordinary_blocks(tiny_host, hook_point, blocks)
    finally:
        handle.remove()

    assert chosen == [blocks[0], *blocks[2:5]]  # a multiple of what a peer holds at once


def test_rows_leave_first_tokens_out_and_losses_replace_every_row(tiny_host: HostModel) -> None:
    subject = Subject(
        sae=random_sae(tiny_host.d_model),
        host=tiny_host,
        hook_point=HookPoint(layer=1, site="resid_post"),
        job=job_of([[0, 5, 6, 7], [0, 8, 9, 10]]),
    )

    found = measure(subject)

    assert (found["tokens"], found["cross_entropy_tokens"], found["kl_positions"]) == (6, 6, 8)
    assert found["mse x d_model / tokens"] == pytest.approx(found["mse"] * 32 / 6)


def test_the_stores_blocks_come_in_order_and_anew() -> None:
    store = BlockStore(job_of([[0, 1], [0, 2], [0, 3], [0, 4]]), 2)

    taken = [store.get_batch_tokens(2), store.get_batch_tokens(2)]
    store.reset_input_dataset()

    assert torch.cat(taken)[:, 1].tolist() == [1, 2, 3, 4]
    assert store.get_batch_tokens(1).tolist() == [[0, 1]]


@pytest.mark.parametrize(("theirs", "ok"), [(2.0001, True), (2.001, False)])
def test_a_difference_beyond_the_tolerance_is_short(tmp_path: Path, theirs: float, ok: bool) -> None:
    report = Report("agreement", out=tmp_path / "result.json")
    ours: Record = {"tokens": 10, "l0_mean": 2.0, "mse": 1.0}

    compare(report, "Peer", ours, {"l0": theirs, "mse": 1.0}, {"l0_mean": "l0", "mse": "mse"})
    report.finish()

    (target,) = json.loads((tmp_path / "result.json").read_text())["targets"]
    assert (target["name"], target["ok"]) == ("peer_largest_relative_difference", ok)
    assert target["value"] == pytest.approx((theirs - 2) / theirs)
