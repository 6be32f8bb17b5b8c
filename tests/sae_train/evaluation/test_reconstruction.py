from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from sae_train.activations.held_out import HeldOutRows
from sae_train.evaluation import reconstruction as reconstruction_module
from sae_train.evaluation.reconstruction import Reconstruction, reconstruction
from sae_train.evaluation.row_moments import row_moments
from steerd.sae.autoencoder import SparseAutoencoder
from tests.sae_train.evaluation.hand_made import cut, perfect_sae, rows_of, sae_of
from tests.tiny_saes import random_sae


def measure(sae: SparseAutoencoder, batches: list[HeldOutRows]) -> Reconstruction:
    return reconstruction(sae, batches, row_moments(batches))


def first_dimension_sae() -> SparseAutoencoder:
    """Rebuilds only the first of two dimensions, only where it is positive; its second feature is dead."""
    return sae_of([[1.0, 0.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]])


def test_hand_made_numbers() -> None:
    rows = rows_of([[2.0, 0.0], [4.0, 1.0], [-2.0, 0.0], [0.0, 3.0]], {3: 7})

    found = measure(first_dimension_sae(), [rows])

    assert (found.tokens, found.special_tokens) == (4, 1)
    assert (found.l0_mean, found.l0_median, found.l0_p95) == (0.5, 0.5, 1.0)
    assert found.l0_special_tokens == 0.0
    assert found.l0_other_tokens == pytest.approx(2 / 3)
    assert found.mse == pytest.approx((0 + 1 + 4 + 9) / 8)
    assert found.mse_special_tokens == pytest.approx(9 / 2)
    assert found.mse_other_tokens == pytest.approx(5 / 6)
    assert found.density.dead == 1
    assert found.density.dense == 1


def test_the_two_definitions_of_variance_explained_differ_as_they_should() -> None:
    """The mean row is (1, 1): squared distances to it 2, 9, 10, 5; squared errors 0, 1, 4, 9."""
    rows = rows_of([[2.0, 0.0], [4.0, 1.0], [-2.0, 0.0], [0.0, 3.0]])

    found = measure(first_dimension_sae(), [rows])

    assert found.variance_explained == pytest.approx(1 - 14 / 26)
    assert found.variance_explained_legacy == pytest.approx(1 - (0 / 2 + 1 / 9 + 4 / 10 + 9 / 5) / 4)


def test_the_mean_row_alone_explains_no_variance() -> None:
    resid = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)) + 3
    sae = sae_of(torch.zeros(4, 2), torch.zeros(2, 4))
    sae = dataclasses.replace(sae, b_dec=resid.mean(dim=0))

    found = measure(sae, [rows_of(resid)])

    assert found.variance_explained == pytest.approx(0.0, abs=1e-6)
    assert found.l0_mean == 0


@pytest.mark.parametrize("shrunk_to", [0.5, 1.0, 2.0])
def test_shrinkage_shows_in_the_norm_and_the_bias_but_not_in_the_cosine(shrunk_to: float) -> None:
    resid = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))

    found = measure(perfect_sae(4, shrunk_to=shrunk_to), [rows_of(resid)])

    assert found.cosine == pytest.approx(1.0)
    assert found.relative_norm == pytest.approx(shrunk_to)
    assert found.relative_reconstruction_bias == pytest.approx(shrunk_to)
    assert found.mse == pytest.approx((1 - shrunk_to) ** 2 * float(resid.square().mean()), rel=1e-5)


def test_the_reconstruction_bias_is_the_factor_that_best_undoes_the_shrinkage() -> None:
    sae, rows = random_sae(8, 32), rows_of(torch.randn(200, 8, generator=torch.Generator().manual_seed(1)))
    x_hat = sae.decode(sae.encode(rows.resid)).double()

    bias = measure(sae, [rows]).relative_reconstruction_bias

    errors = [float((x_hat / b - rows.resid).square().sum()) for b in (bias * 0.99, bias, bias * 1.01)]
    assert errors[1] < min(errors[0], errors[2])


def test_special_tokens_are_told_apart_by_id() -> None:
    rows = rows_of([[2.0, 0.0], [0.0, 4.0], [0.0, 2.0], [1.0, 6.0]], {1: 5, 2: 5, 3: 9})

    by_id = measure(first_dimension_sae(), [rows]).special_tokens_by_id

    assert set(by_id) == {5, 9}
    assert (by_id[5].count, by_id[5].mse, by_id[5].l0) == (2, (16 + 4) / 4, 0.0)
    assert (by_id[9].count, by_id[9].mse, by_id[9].l0) == (1, 36 / 2, 1.0)


def test_what_no_token_shows_is_undefined_instead_of_zero() -> None:
    found = measure(first_dimension_sae(), [rows_of([[2.0, 1.0], [1.0, 0.0]])])

    assert math.isnan(found.mse_special_tokens)
    assert math.isnan(found.l0_special_tokens)
    assert found.special_tokens_by_id == {}


@pytest.mark.parametrize("size", [1, 7, 64])
def test_no_number_depends_on_how_the_rows_are_cut(size: int) -> None:
    generator = torch.Generator().manual_seed(3)
    rows = rows_of(torch.randn(300, 8, generator=generator) * 20 + 5, dict.fromkeys(range(0, 300, 7), 1))
    sae = random_sae(8, 64)

    whole, parts = (dataclasses.asdict(measure(sae, batches)) for batches in ([rows], cut(rows, size)))

    assert whole.pop("special_tokens_by_id")[1] == pytest.approx(
        parts.pop("special_tokens_by_id")[1], rel=1e-6
    )
    assert whole.pop("density") == parts.pop("density")
    assert whole == pytest.approx(parts, rel=1e-6)


def test_wide_saes_are_measured_a_few_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_of(torch.randn(300, 8, generator=torch.Generator().manual_seed(3)))
    sae = random_sae(8, 64)
    whole = measure(sae, [rows])
    monkeypatch.setattr(reconstruction_module, "_ACTS_AT_ONCE", 5 * 64)

    parts = measure(sae, [rows])

    assert reconstruction_module.rows_at_once(sae) == 5
    assert parts.density == whole.density
    assert (parts.mse, parts.l0_mean) == pytest.approx((whole.mse, whole.l0_mean), rel=1e-6)


def test_densities_are_counted_on_the_first_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconstruction_module, "DENSITY_TOKENS", 100)
    rows = rows_of(torch.randn(300, 8, generator=torch.Generator().manual_seed(3)))
    sae = random_sae(8, 64)

    found = measure(sae, cut(rows, 64)).density

    first = measure(sae, [rows_of(rows.resid[:100])]).density
    assert (found, found.tokens) == (first, 100)


def test_agrees_with_the_plain_formulas_in_float64() -> None:
    resid = torch.randn(500, 16, generator=torch.Generator().manual_seed(4)) * 30 + 10
    sae = random_sae()
    exact = sae.to(dtype=torch.float64)
    x = resid.double()
    x_hat = exact.decode(exact.encode(x))
    distance = (x - x.mean(dim=0)).square().sum(dim=1)

    found = measure(sae, cut(rows_of(resid), 33))

    assert found.mse == pytest.approx(float((x - x_hat).square().mean()), rel=1e-5)
    assert found.variance_explained == pytest.approx(
        1
        - float((x - x_hat).var(dim=0, correction=0).sum() + (x - x_hat).mean(dim=0).square().sum())
        / float(x.var(dim=0, correction=0).sum()),
        rel=1e-5,
    )
    legacy = float((1 - (x - x_hat).square().sum(dim=1) / distance).mean())
    assert found.variance_explained_legacy == pytest.approx(legacy, rel=1e-5)
    assert found.relative_norm == pytest.approx(float((x_hat.norm(dim=1) / x.norm(dim=1)).mean()), rel=1e-5)
