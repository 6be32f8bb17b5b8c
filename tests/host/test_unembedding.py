"""Rows that leave the last layer give the host's own logits, whatever the host does with them after it."""

from __future__ import annotations

import pytest
import torch
from transformers import CohereConfig, GraniteConfig

from steerd.host.hook_point import HookPoint
from tests.tiny_hosts import ARCHITECTURES, VOCAB_SIZE, host_from_config, make_tiny_host

INPUT_IDS = torch.tensor([list(b"every layer of every host"), list(b"is read at four places...")])
SIZES = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.25,
    "bos_token_id": None,
    "eos_token_id": 258,
    "pad_token_id": 258,
}
SCALED = {
    "cohere": CohereConfig(**SIZES, logit_scale=0.25),
    "granite": GraniteConfig(**SIZES, logits_scaling=5.0),
}


@pytest.fixture(scope="module", params=[*ARCHITECTURES, *SCALED, "gemma2 with a low cap", "tied llama"])
def host(request):
    match request.param:
        case "gemma2 with a low cap":
            return make_tiny_host("gemma2", final_logit_softcapping=2.0)
        case "tied llama":
            return make_tiny_host("llama", tie_word_embeddings=True)
        case name if name in SCALED:
            return host_from_config(SCALED[name])
        case name:
            return make_tiny_host(name)


def last_rows(host, input_ids=INPUT_IDS):
    point = HookPoint(host.num_layers - 1, "resid_post")
    return host.activations(input_ids, None, [point])[point].flatten(0, 1)


def own_logits(host, input_ids=INPUT_IDS):
    with torch.no_grad():
        return host.model(input_ids, use_cache=False).logits.flatten(0, 1).float()


def test_rows_that_leave_the_last_layer_give_the_hosts_logits(host):
    got, expected = host.unembed(last_rows(host)), own_logits(host)

    torch.testing.assert_close(
        got, expected, rtol=1e-5, atol=1e-5
    )  # matrices of other shapes, other rounding


def test_a_row_gives_the_same_logits_whatever_rows_are_beside_it(host):
    rows = last_rows(host)

    alone = torch.cat([host.unembed(rows[n : n + 1]) for n in (7, 3)])

    torch.testing.assert_close(alone, host.unembed(rows)[[7, 3]], rtol=1e-5, atol=1e-5)


def test_the_host_is_as_it_was_afterwards(host):
    before = own_logits(host)

    host.unembed(last_rows(host))

    assert torch.equal(own_logits(host), before)


def test_no_hook_sees_the_rows():
    host, seen = make_tiny_host("llama"), []
    rows = last_rows(host)
    handles = [host.attach(point, lambda rows: seen.append(rows)) for point in host.hook_points()]

    host.unembed(rows)

    for handle in handles:
        handle.remove()
    assert seen == []


def test_rows_longer_than_the_context_are_rows_all_the_same():
    host = make_tiny_host("gpt2", max_position_embeddings=16)
    rows = last_rows(host, INPUT_IDS[:, :16])

    got = host.unembed(rows.repeat(3, 1))

    torch.testing.assert_close(got, own_logits(host, INPUT_IDS[:, :16]).repeat(3, 1), rtol=1e-5, atol=1e-5)


@pytest.mark.real_host
def test_the_default_hosts_logits(real_host):
    ids = torch.tensor([real_host.tokenizer.encode("The capital of France is Paris.")])

    torch.testing.assert_close(
        real_host.unembed(last_rows(real_host, ids)), own_logits(real_host, ids), rtol=1e-4, atol=1e-4
    )
