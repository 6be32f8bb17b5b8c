"""Every fold against the convention it replaces, written out, in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from steerd.sae.activation_function import JumpReLU, TopK
from steerd.sae.autoencoder import SparseAutoencoder
from steerd.sae.config_file import ARCHITECTURES, Architecture
from steerd.sae.folding import fold_activation_scale, fold_b_dec_into_encoder, fold_decoder_norm
from tests.tiny_saes import random_sae

TOLERANCE = 1e-12  # float64 sums of 16 and 64 terms of size one


def unfolded(architecture: Architecture, seed: int = 0) -> SparseAutoencoder:
    """An SAE with decoder rows of many lengths and a decoder bias that matters."""
    sae = random_sae(seed=seed, architecture=architecture, dtype=torch.float64)
    lengths = torch.linspace(0.2, 5.0, sae.d_sae, dtype=torch.float64)
    return replace(sae, W_dec=sae.W_dec * lengths.unsqueeze(1), b_dec=sae.b_dec * 50)


def rows(count: int = 40) -> Tensor:
    return torch.randn(count, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def assert_same(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_b_dec_on_the_input_goes_into_b_enc(architecture: Architecture):
    sae, x = unfolded(architecture), rows()

    plain = fold_b_dec_into_encoder(sae)

    assert_same(plain.encode(x), sae.encode(x - sae.b_dec))
    assert_same(plain.decode(plain.encode(x)), sae.decode(sae.encode(x - sae.b_dec)))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_activation_scale_goes_into_the_weights(architecture: Architecture):
    sae, x, scale = unfolded(architecture), rows(), 0.037

    plain = fold_activation_scale(sae, scale)

    assert_same(plain.encode(x), sae.encode(scale * x))
    assert_same(scale * plain.decode(plain.encode(x)), sae.decode(sae.encode(scale * x)))


@pytest.mark.parametrize("architecture", ["standard", "jumprelu"])
def test_decoder_norm_goes_into_the_activations(architecture: Architecture):
    sae, x = unfolded(architecture), rows()

    plain = fold_decoder_norm(sae)

    assert_same(plain.W_dec.norm(dim=1), torch.ones(64, dtype=torch.float64))
    assert_same(plain.encode(x), sae.encode(x) * sae.W_dec.norm(dim=1))
    assert_same(plain.decode(plain.encode(x)), sae.decode(sae.encode(x)))


def test_decoder_norm_is_not_folded_into_a_topk_that_would_choose_otherwise():
    with pytest.raises(ValueError, match="TopK"):
        fold_decoder_norm(unfolded("topk"))


def test_decoder_norm_of_a_topk_with_unit_rows_is_folded():
    sae, x = random_sae(architecture="topk"), rows()

    assert_same(fold_decoder_norm(sae).W_dec.norm(dim=1), torch.ones(64, dtype=torch.float64))
    torch.testing.assert_close(fold_decoder_norm(sae).encode(x), sae.to(dtype=torch.float64).encode(x))


def test_decoder_norm_of_a_topk_that_ranks_by_it_is_folded():
    sae, x = unfolded("topk"), rows()
    norms = sae.W_dec.norm(dim=1)
    ranked_acts = TopK(8)((x @ sae.W_enc + sae.b_enc) * norms)

    plain = fold_decoder_norm(sae, ranked_by_norm=True)

    assert_same(plain.encode(x), ranked_acts)
    assert_same(plain.decode(plain.encode(x)), sae.decode(ranked_acts / norms))


def test_a_zero_decoder_row_stays_zero_and_its_feature_silent():
    sae = unfolded("jumprelu")
    sae.W_dec[5] = 0.0

    plain = fold_decoder_norm(sae)

    assert plain.W_dec[5].eq(0).all()
    assert plain.encode(rows())[:, 5].eq(0).all()
    assert_same(plain.decode(plain.encode(rows())), sae.decode(sae.encode(rows())))


def test_all_folds_in_a_row_are_one_sae():
    """As a trainer needs them: it saw scale * x, subtracted b_dec, and its decoder rows drifted."""
    sae, x, scale = unfolded("jumprelu"), rows(), 3.1

    plain = fold_decoder_norm(fold_activation_scale(fold_b_dec_into_encoder(sae), scale))

    trained_output = sae.decode(sae.encode(scale * x - sae.b_dec)) / scale
    assert_same(plain.decode(plain.encode(x)), trained_output)


def test_folds_leave_their_argument_alone_and_widen_it():
    sae = random_sae()
    before = [sae.W_enc.clone(), sae.W_dec.clone(), sae.activation.threshold.clone()]

    plain = fold_decoder_norm(fold_activation_scale(sae, 2.0))

    assert isinstance(plain.activation, JumpReLU)
    assert plain.W_enc.dtype == plain.activation.threshold.dtype == torch.float64
    assert all(map(torch.equal, [sae.W_enc, sae.W_dec, sae.activation.threshold], before))
