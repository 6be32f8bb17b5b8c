from __future__ import annotations

import pytest
import torch

from sae_train.features.output_tokens import final_norm_gain, output_tokens
from steerd.host.host_model import HostModel
from steerd.sae.activation_function import ReLU
from steerd.sae.autoencoder import SparseAutoencoder
from tests.tiny_hosts import make_tiny_host


def sae_with(W_dec: torch.Tensor) -> SparseAutoencoder:
    d_sae, d_model = W_dec.shape
    return SparseAutoencoder(
        torch.randn(d_model, d_sae), torch.zeros(d_sae), W_dec, torch.zeros(d_model), ReLU()
    )


def test_a_direction_promotes_the_token_whose_row_of_the_head_it_is(tiny_host: HostModel) -> None:
    head = tiny_host.model.get_output_embeddings().weight.detach()
    norm = tiny_host.model.base_model.norm.weight.detach()
    wanted = [5, 80, 200]
    generator = torch.Generator().manual_seed(0)
    W_dec = torch.randn(40, tiny_host.d_model, generator=generator) * head.norm(dim=1).mean()
    W_dec[: len(wanted)] = 4 * head[wanted] / norm
    W_dec[len(wanted) : 2 * len(wanted)] = -4 * head[wanted] / norm

    found = output_tokens(tiny_host, sae_with(W_dec), count=5)

    assert found.promoted[: len(wanted), 0].tolist() == wanted
    assert found.suppressed[len(wanted) : 2 * len(wanted), 0].tolist() == wanted


def test_effects_are_those_of_the_plain_formula_in_float64(tiny_host: HostModel) -> None:
    head = tiny_host.model.get_output_embeddings().weight.detach().double()
    gain = tiny_host.model.base_model.norm.weight.detach().double()
    W_dec = torch.randn(300, tiny_host.d_model, generator=torch.Generator().manual_seed(1))
    logits = (W_dec.double() * gain) @ (head - head.mean(dim=0)).t()
    effects = (logits - logits.mean(dim=0)) / logits.std(dim=0, correction=0)

    found = output_tokens(tiny_host, sae_with(W_dec), count=4, features=280)

    torch.testing.assert_close(
        found.promoted_effects.double(), effects[:280].topk(4, dim=1).values, rtol=1e-3, atol=1e-3
    )
    torch.testing.assert_close(
        found.suppressed_effects.double(), -(-effects[:280]).topk(4, dim=1).values, rtol=1e-3, atol=1e-3
    )
    assert found.promoted.shape == (280, 4)


@pytest.mark.parametrize(("architecture", "offset"), [("llama", 0.0), ("gemma2", 1.0), ("gpt2", 0.0)])
def test_the_final_norms_gain_is_found_however_it_is_stored(architecture: str, offset: float) -> None:
    host = make_tiny_host(architecture)
    norm = host.model.base_model.ln_f if architecture == "gpt2" else host.model.base_model.norm

    gain = final_norm_gain(host)

    torch.testing.assert_close(gain, norm.weight.detach() + offset, rtol=1e-4, atol=1e-4)
