from __future__ import annotations

import pytest
import torch

from steerd.sae.activation_function import JumpReLU, ReLU
from steerd.sae.autoencoder import SparseAutoencoder
from steerd.sae.config_file import ARCHITECTURES, Architecture
from tests.tiny_saes import random_sae


def rows(d_model: int = 16, count: int = 5) -> torch.Tensor:
    return torch.randn(count, d_model, generator=torch.Generator().manual_seed(1))


def test_encode_and_decode_by_hand():
    sae = SparseAutoencoder(
        W_enc=torch.tensor([[1.0, 0.0, -1.0], [0.0, 2.0, 0.0]]),
        b_enc=torch.tensor([0.0, -1.0, 0.5]),
        W_dec=torch.tensor([[1.0, 0.0], [0.0, 1.0], [3.0, 3.0]]),
        b_dec=torch.tensor([10.0, 20.0]),
        activation=ReLU(),
    )

    acts = sae.encode(torch.tensor([[2.0, 3.0]]))

    assert acts.tolist() == [[2.0, 5.0, 0.0]]
    assert sae.decode(acts).tolist() == [[12.0, 25.0]]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_feature_acts_are_the_columns_of_encode(architecture: Architecture):
    """A product over fewer columns may add in another order: equal to a few units in the last place."""
    sae = random_sae(architecture=architecture)
    features = [63, 0, 7, 7]

    acts = sae.feature_acts(rows(), features)

    torch.testing.assert_close(acts, sae.encode(rows())[:, features], rtol=1e-5, atol=1e-6)
    assert (acts > 0).any()


def test_no_feature_is_asked_for():
    assert random_sae().feature_acts(rows(), []).shape == (5, 0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_inputs_of_any_dtype_are_computed_in_float32(architecture: Architecture):
    sae, x = random_sae(architecture=architecture), rows().to(torch.bfloat16)

    acts = sae.encode(x)

    assert acts.dtype == torch.float32
    assert torch.equal(acts, sae.encode(x.float()))
    assert torch.equal(sae.feature_acts(x, [3]), sae.feature_acts(x.float(), [3]))


def test_moving_to_a_dtype_moves_the_threshold_too():
    sae = random_sae().to("cpu", dtype=torch.float64)

    assert isinstance(sae.activation, JumpReLU)
    assert sae.activation.threshold.dtype == sae.W_enc.dtype == torch.float64


def test_tensors_that_do_not_fit_each_other_are_our_own_mistake():
    sae = random_sae()

    with pytest.raises(AssertionError, match="W_dec"):
        SparseAutoencoder(sae.W_enc, sae.b_enc, sae.W_enc, sae.b_dec, sae.activation)
