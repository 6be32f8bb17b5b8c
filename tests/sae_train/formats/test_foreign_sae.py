"""Folding where several conventions meet, in float64 against the conventions written out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sae_train.formats.foreign_sae import ForeignSae, fold, gated_as_jumprelu
from steerd.host.hook_point import HookPoint
from steerd.sae.activation_function import JumpReLU, TopK
from steerd.sae.autoencoder import SparseAutoencoder
from steerd.sae.config_file import ARCHITECTURES, Architecture
from tests.tiny_saes import random_sae

TOLERANCE = 1e-12  # float64 sums of 16 and 64 terms of size one


def foreign(weights: SparseAutoencoder, **conventions: bool | float) -> ForeignSae:
    return ForeignSae(
        layout="none",
        kind="random",
        model_name="tiny/host",
        hook_point=HookPoint(1, "resid_post"),
        weights=weights,
        **conventions,
    )


def stretched(architecture: Architecture, norms: Tensor) -> SparseAutoencoder:
    sae = random_sae(architecture=architecture, dtype=torch.float64)
    return replace(sae, W_dec=sae.W_dec * norms.unsqueeze(1), b_dec=sae.b_dec * 50)


NORMS = torch.linspace(0.2, 5.0, 64, dtype=torch.float64)


def rows() -> Tensor:
    return torch.randn(40, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def assert_same(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("ranked", [False, True])
@pytest.mark.parametrize("scale", [1.0, 0.37])
@pytest.mark.parametrize("on_input", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_mix_of_conventions(
    architecture: Architecture, on_input: bool, scale: float, ranked: bool, keep: bool
):
    sae, x = stretched(architecture, NORMS), rows()
    norms = NORMS if ranked else torch.ones_like(NORMS)
    pre_acts = (scale * x - (sae.b_dec if on_input else 0.0)) @ sae.W_enc + sae.b_enc
    acts = sae.activation(pre_acts * norms) / norms
    recon = sae.decode(acts) / scale

    folded = fold(
        foreign(sae, b_dec_on_input=on_input, input_scale=scale, ranked_by_decoder_norm=ranked),
        keep_decoder_norms=keep,
    )

    found = folded.sae.encode(x)
    assert_same(folded.sae.decode(found), recon)
    assert torch.equal(found > 0, acts > 0)
    if keep and not ranked:
        assert_same(found, acts)
    elif ranked or architecture != "topk":
        assert_same(folded.sae.W_dec.norm(dim=1), torch.ones_like(NORMS))
        assert_same(found, acts * NORMS / scale)


def test_a_topk_keeps_norms_that_differ_and_folds_one_norm():
    x = rows()

    kept = fold(foreign(stretched("topk", NORMS)))
    assert "kept: a TopK without them would choose other features" in kept.steps[-1]
    assert_same(kept.sae.W_dec.norm(dim=1), NORMS)

    nearly_equal = 3.0 * (1 + 1e-3 * torch.sin(NORMS))
    one = fold(foreign(stretched("topk", nearly_equal)))
    plain = stretched("topk", nearly_equal)
    assert_same(one.sae.encode(x), plain.encode(x) * nearly_equal.mean())
    assert_same(one.sae.decode(one.sae.encode(x)), plain.decode(plain.encode(x)))
    assert (one.sae.W_dec.norm(dim=1) - 1).abs().max() < 2e-3


def test_what_needs_no_folding_is_left_alone():
    sae = random_sae(dtype=torch.float64)

    folded = fold(foreign(sae))

    assert folded.sae is sae
    assert folded.steps == ()


def test_a_gated_sae_is_a_jumprelu():
    sae, x = random_sae(dtype=torch.float64), rows()
    r_mag, b_gate, b_mag = torch.randn(3, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    joined = gated_as_jumprelu(sae.W_enc, sae.W_dec, sae.b_dec, r_mag=r_mag, b_gate=b_gate, b_mag=b_mag)

    shared = x @ sae.W_enc
    expected = (shared + b_gate > 0) * (shared * r_mag.exp() + b_mag).relu()
    assert_same(joined.encode(x), expected)
    assert isinstance(joined.activation, JumpReLU)
    assert (joined.activation.threshold < 0).any(), "a gate that opens below a positive magnitude"


def test_the_order_of_scale_and_norms_does_not_move_a_topk():
    sae = stretched("topk", NORMS)
    assert isinstance(sae.activation, TopK)
    x = rows()

    scaled = fold(foreign(sae, input_scale=3.7, ranked_by_decoder_norm=True)).sae

    pre_acts = 3.7 * x @ sae.W_enc + sae.b_enc
    assert torch.equal(scaled.encode(x) > 0, sae.activation(pre_acts * NORMS) > 0)
