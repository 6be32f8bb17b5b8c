from __future__ import annotations

import pytest
import torch

from steerd.host.host_model import HostModel
from steerd.host.int8_head import quantize_head
from steerd.host.output_tokens import OutputTokenFinder, final_norm_gain, output_tokens
from tests.tiny_hosts import make_tiny_host


def test_a_direction_promotes_the_token_whose_row_of_the_head_it_is(tiny_host: HostModel) -> None:
    head = tiny_host.model.get_output_embeddings().weight.detach()
    norm = tiny_host.model.base_model.norm.weight.detach()
    wanted = [5, 80, 200]
    generator = torch.Generator().manual_seed(0)
    W_dec = torch.randn(40, tiny_host.d_model, generator=generator) * head.norm(dim=1).mean()
    W_dec[: len(wanted)] = 4 * head[wanted] / norm
    W_dec[len(wanted) : 2 * len(wanted)] = -4 * head[wanted] / norm

    found = output_tokens(tiny_host, W_dec, count=5)

    assert found.promoted[: len(wanted), 0].tolist() == wanted
    assert found.suppressed[len(wanted) : 2 * len(wanted), 0].tolist() == wanted


def test_effects_are_those_of_the_plain_formula_in_float64(tiny_host: HostModel) -> None:
    head = tiny_host.model.get_output_embeddings().weight.detach().double()
    gain = tiny_host.model.base_model.norm.weight.detach().double()
    W_dec = torch.randn(300, tiny_host.d_model, generator=torch.Generator().manual_seed(1))
    logits = (W_dec.double() * gain) @ (head - head.mean(dim=0)).t()
    effects = (logits - logits.mean(dim=0)) / logits.std(dim=0, correction=0)

    found = output_tokens(tiny_host, W_dec, count=4, features=280)

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


def test_chosen_features_are_read_as_all_of_them_are(
    tiny_host: HostModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    W_dec = torch.randn(70, tiny_host.d_model, generator=torch.Generator().manual_seed(2))
    expected = output_tokens(tiny_host, W_dec, count=3)
    monkeypatch.setattr("steerd.host.output_tokens._ROWS_AT_ONCE", 100)
    finder = OutputTokenFinder(tiny_host, W_dec)

    slices = list(finder.measure())
    found = finder.find([66, 3], 3)

    assert slices == [100, 200, 259]
    assert found.promoted.tolist() == expected.promoted[[66, 3]].tolist()
    torch.testing.assert_close(found.suppressed_effects, expected.suppressed_effects[[66, 3]])


def test_a_head_in_8_bits_has_nearly_the_same_effects() -> None:
    host = make_tiny_host("llama")
    W_dec = torch.randn(40, host.d_model, generator=torch.Generator().manual_seed(3))
    expected = output_tokens(host, W_dec, count=1)
    quantize_head(host.model)

    found = output_tokens(host, W_dec, count=1)

    assert (found.promoted == expected.promoted).float().mean() > 0.8
    torch.testing.assert_close(found.promoted_effects, expected.promoted_effects, rtol=0.05, atol=0.05)
