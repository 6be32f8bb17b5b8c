from __future__ import annotations

import pytest
import torch

from sae_train.activations.activation_scale import ActivationError, estimate_scale, geometric_median


def test_scaled_rows_have_mean_squared_norm_d_model_without_the_outliers() -> None:
    rows = torch.randn(5000, 16, generator=torch.Generator().manual_seed(0)) * 7
    rows[:10] *= 1000

    scale = estimate_scale(rows, outlier_norm=10.0)

    inliers = rows[scale.is_inlier(rows)]
    assert len(inliers) == 4990
    torch.testing.assert_close(
        float((inliers * scale.scale).square().sum(dim=1).mean()), 16.0, rtol=1e-4, atol=0
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_activations_without_a_scale_are_refused(value: float) -> None:
    with pytest.raises(ActivationError):
        estimate_scale(torch.full((10, 4), value), outlier_norm=10.0)


def test_the_geometric_median_resists_outliers_and_survives_a_data_point_in_its_place() -> None:
    cross = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0], [50.0, 50.0]])

    median = geometric_median(cross)

    assert median.norm() < 0.5
    torch.testing.assert_close(geometric_median(cross[:5]), torch.zeros(2))


def test_float16_rows_are_measured_without_overflow() -> None:
    rows = torch.randn(500, 64, generator=torch.Generator().manual_seed(0)) * 12000
    assert rows.half().norm(dim=1).isinf().any()

    scale = estimate_scale(rows.half(), outlier_norm=1.1)

    exact = estimate_scale(rows.double().float(), outlier_norm=1.1)
    assert scale.median_norm == pytest.approx(exact.median_norm, rel=1e-3)
    assert scale.scale == pytest.approx(exact.scale, rel=1e-3)
    assert scale.is_inlier(rows.half()).sum() == exact.is_inlier(rows).sum()
