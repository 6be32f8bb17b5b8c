from __future__ import annotations

import math

import pytest
import torch

from sae_train.corpus.token_blocks import TokenBlock
from sae_train.evaluation.calibration import calibrate_threshold
from sae_train.evaluation.reconstruction import HeldOutRows, cross_entropy, reconstruction
from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel
from steerd.sae.activation_function import JumpReLU, ReLU
from steerd.sae.autoencoder import SparseAutoencoder

HOOK_POINT = HookPoint(layer=1, site="resid_post")


def sae_of(W_enc: list[list[float]], W_dec: list[list[float]]) -> SparseAutoencoder:
    encoder, decoder = torch.tensor(W_enc), torch.tensor(W_dec)
    return SparseAutoencoder(encoder, torch.zeros(len(decoder)), decoder, torch.zeros(len(encoder)), ReLU())


def perfect_sae(d_model: int) -> SparseAutoencoder:
    """Rebuilds every row: one feature for each dimension and sign."""
    eye = torch.eye(d_model)
    return sae_of(torch.cat([eye, -eye], dim=1).tolist(), torch.cat([eye, -eye]).tolist())


def test_hand_made_numbers() -> None:
    """Only the first of two dimensions is rebuilt, and only where it is positive."""
    sae = sae_of([[1.0, 0.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]])
    resid = torch.tensor([[2.0, 0.0], [4.0, 1.0], [-2.0, 0.0], [0.0, 3.0]])
    special = torch.tensor([False, False, False, True])

    measured = reconstruction(sae, [HeldOutRows(resid=resid, special=special)])

    assert measured.tokens == 4
    assert measured.l0_mean == 0.5
    assert measured.l0_special_tokens == 0.0
    assert measured.mse == pytest.approx((0 + 1 + 4 + 9) / 8)
    assert measured.mse_special_tokens == pytest.approx(9 / 2)
    assert measured.mse_other_tokens == pytest.approx(5 / 6)
    around_the_mean = 2 * 2 + 4 * 4 + 2 * 2 + 1 + 3 * 3 - 4 * (1.0**2 + 1.0**2)
    assert measured.variance_explained == pytest.approx(1 - 14 / around_the_mean)
    assert measured.features_inactive == 1


def test_numbers_do_not_depend_on_the_batch_size() -> None:
    resid = torch.randn(100, 2, generator=torch.Generator().manual_seed(0)) + 1
    special = torch.rand(100, generator=torch.Generator().manual_seed(1)) < 0.3
    sae = sae_of([[1.0, 0.5], [0.2, 1.0]], [[1.0, 0.0], [0.0, 1.0]])

    whole = reconstruction(sae, [HeldOutRows(resid=resid, special=special)])
    parts = reconstruction(
        sae, [HeldOutRows(resid=r, special=s) for r, s in zip(resid.split(7), special.split(7), strict=True)]
    )

    for name in ("l0_mean", "variance_explained", "mse", "mse_special_tokens", "cosine", "density_median"):
        assert getattr(whole, name) == pytest.approx(getattr(parts, name), rel=1e-6), name


def blocks() -> list[TokenBlock]:
    texts = ["a longer text to read", "short", "middling text"]
    return [TokenBlock(list(text.encode()), [False] + [True] * (len(text) - 1), source="") for text in texts]


def test_a_perfect_sae_recovers_everything_and_zeros_nothing(tiny_host: HostModel) -> None:
    zero = perfect_sae(tiny_host.d_model)
    zero = SparseAutoencoder(zero.W_enc, zero.b_enc, torch.zeros_like(zero.W_dec), zero.b_dec, ReLU())

    def measure(sae: SparseAutoencoder) -> float:
        return cross_entropy(
            tiny_host, HOOK_POINT, sae, blocks(), outlier_limit=1e9, batch_tokens=30, on_tokens=lambda _: None
        ).recovered

    assert measure(perfect_sae(tiny_host.d_model)) == pytest.approx(1.0, abs=1e-3)
    assert measure(zero) == pytest.approx(0.0, abs=1e-6)


def test_the_clean_loss_is_the_hosts_own_and_padding_does_not_count(tiny_host: HostModel) -> None:
    expected, tokens = 0.0, 0
    for block in blocks():
        ids = torch.tensor([block.ids])
        with torch.no_grad():
            log_probs = tiny_host.model(input_ids=ids).logits.log_softmax(dim=-1)
        expected -= float(log_probs[0, :-1].gather(1, ids[0, 1:, None]).sum())
        tokens += len(block.ids) - 1

    measured = cross_entropy(
        tiny_host,
        HOOK_POINT,
        perfect_sae(tiny_host.d_model),
        blocks(),
        outlier_limit=1e9,
        batch_tokens=100,
        on_tokens=lambda _: None,
    )

    assert measured.tokens == tokens
    assert measured.clean == pytest.approx(expected / tokens, rel=1e-5)


def test_outliers_pass_unchanged(tiny_host: HostModel) -> None:
    measured = cross_entropy(
        tiny_host,
        HOOK_POINT,
        perfect_sae(tiny_host.d_model),
        blocks(),
        outlier_limit=1e-6,
        batch_tokens=100,
        on_tokens=lambda _: None,
    )

    assert measured.clean == measured.spliced == measured.zero_ablated


@pytest.mark.parametrize("guess", [0.0, 0.5, 5.0, math.inf])
def test_the_threshold_is_a_quantile_whatever_the_guess(guess: float) -> None:
    generator = torch.Generator().manual_seed(0)
    sae = SparseAutoencoder(
        torch.randn(6, 20, generator=generator), torch.zeros(20), torch.randn(20, 6), torch.zeros(6), ReLU()
    )
    rows = torch.randn(500, 6, generator=generator)

    threshold = calibrate_threshold(sae, lambda: rows.split(64), k=3, guess=guess)

    acts = JumpReLU(torch.full((20,), threshold))(rows @ sae.W_enc)
    assert int((acts > 0).sum()) == 3 * 500
