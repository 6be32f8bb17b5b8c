from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sae_train.evaluation import calibration
from sae_train.evaluation.calibration import Rows, calibrate, calibrate_threshold, with_threshold
from steerd.sae.activation_function import ReLU
from steerd.sae.autoencoder import SparseAutoencoder


def random_rows(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))


def random_relu(*, b_enc: float = 0.0, scale: float = 1.0) -> SparseAutoencoder:
    generator = torch.Generator().manual_seed(5)
    W_enc = scale * torch.randn(6, 20, generator=generator)
    return SparseAutoencoder(
        W_enc, torch.full((20,), b_enc), torch.randn(20, 6, generator=generator), torch.zeros(6), ReLU()
    )


def cut(rows: Tensor, size: int) -> Rows:
    return lambda: torch.split(rows, size)


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
@pytest.mark.parametrize("k", [1, 3, 7])
def test_the_threshold_is_the_exact_quantile(k: int, scale: float) -> None:
    sae, rows = random_relu(scale=scale), random_rows(500)

    threshold = calibrate_threshold(sae, cut(rows, 64), k=k)

    largest = (rows @ sae.W_enc).flatten().sort(descending=True).values
    assert threshold == pytest.approx(float(largest[k * 500]), rel=1e-6)
    assert int((with_threshold(sae, threshold).encode(rows) > 0).sum()) == k * 500


def test_rows_may_come_in_any_batches() -> None:
    sae, rows = random_relu(), random_rows(300)

    thresholds = [calibrate_threshold(sae, cut(rows, size), k=2) for size in (1, 100, 300)]

    assert thresholds == pytest.approx([thresholds[0]] * 3, rel=1e-6)


def test_where_too_few_are_positive_all_of_them_count() -> None:
    sae = random_relu(b_enc=-100.0)

    assert calibrate_threshold(sae, cut(random_rows(50), 10), k=1) == 0.0


def test_ties_at_the_threshold_stay_below_it() -> None:
    eye = torch.eye(2)
    sae = SparseAutoencoder(eye, torch.zeros(2), eye, torch.zeros(2), ReLU())
    rows = torch.tensor([[3.0, 1.0], [1.0, 1.0], [2.0, 1.0]])

    threshold = calibrate_threshold(sae, cut(rows, 2), k=1)

    assert threshold == 1.0
    assert int((with_threshold(sae, threshold).encode(rows) > 0).sum()) == 2


def mean_l0(sae: SparseAutoencoder, rows: Tensor) -> float:
    return float((sae.encode(rows) > 0).sum(dim=1).double().mean())


def test_the_threshold_is_found_on_all_rows_and_checked_on_halves_that_did_not_see_each_other() -> None:
    sae = random_relu()
    in_second = [0, 1, 0, 1, 0, 0, 1, 0, 1, 1]
    spans = [random_rows(calibration._SPAN, seed=i) * (1 + in_second[i]) for i in range(10)]  # twice as large
    rows = torch.cat(spans)

    found = calibrate(sae, cut(rows, 1000), k=3)

    assert found.threshold == calibrate_threshold(sae, cut(rows, 700), k=3)
    assert (found.rows_seen, found.rows_unseen) == (len(rows), len(rows))
    assert found.l0_seen == pytest.approx(3.0)
    halves = [torch.cat([spans[i] for i in range(10) if in_second[i] == half]) for half in (0, 1)]
    thresholds = [calibrate_threshold(sae, cut(half, 700), k=3) for half in halves]
    l0 = [mean_l0(with_threshold(sae, thresholds[1 - half]), halves[half]) for half in (0, 1)]
    assert found.l0_unseen == pytest.approx(sum(l0) / 2)
    assert found.l0_unseen_worse_half == pytest.approx(max(l0, key=lambda mean: abs(mean - 3)))
    assert abs(found.l0_unseen_worse_half - 3) > 1


@pytest.mark.parametrize("in_a_row", [1, 2, 3, 4])
def test_sources_that_take_turns_fall_into_both_halves(in_a_row: int) -> None:
    spans = [random_rows(calibration._SPAN, seed=i) * (1 + (i // in_a_row) % 2) for i in range(120)]

    found = calibrate(random_relu(), cut(torch.cat(spans), 4096), k=3)

    assert found.l0_unseen_worse_half == pytest.approx(3.0, rel=0.05)


def test_on_like_rows_the_halves_have_the_same_l0() -> None:
    found = calibrate(random_relu(), cut(random_rows(20_000), 4096), k=3)

    assert found.l0_seen == pytest.approx(3.0, rel=1e-4)
    assert found.l0_unseen == pytest.approx(3.0, rel=0.005)
    assert found.l0_unseen_worse_half == pytest.approx(3.0, rel=0.02)


def test_without_a_second_span_nothing_is_said_of_unseen_rows() -> None:
    found = calibrate(random_relu(), cut(random_rows(100), 30), k=2)

    assert (found.rows_seen, found.rows_unseen) == (100, 0)
    assert math.isnan(found.l0_unseen)
    assert math.isnan(found.l0_unseen_worse_half)
