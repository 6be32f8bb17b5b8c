"""Every hook point of every architecture, against what the modelling code itself says.

The module paths below are written down from reading that code; steerd has no such table.
"""

from __future__ import annotations

import pytest
import torch

from steerd.host.hook_point import SITES, HookPoint
from tests.tiny_hosts import ARCHITECTURES, make_tiny_host

# Architecture -> layers, the modules of a layer whose outputs are added to the stream, and the final norm.
LLAMA_LIKE = ("model.layers", "self_attn", "mlp", "model.norm")
GEMMA_LIKE = ("model.layers", "post_attention_layernorm", "post_feedforward_layernorm", "model.norm")
MODULES = {
    "llama": LLAMA_LIKE,
    "qwen3": LLAMA_LIKE,
    "mistral": LLAMA_LIKE,
    "gemma2": GEMMA_LIKE,
    "gemma3": GEMMA_LIKE,
    "gpt2": ("transformer.h", "attn", "mlp", "transformer.ln_f"),
    "gpt_neox": ("gpt_neox.layers", "attention", "mlp", "gpt_neox.final_layer_norm"),
    "opt": ("model.decoder.layers", "self_attn", "fc2", "model.decoder.final_layer_norm"),
    "phi3": LLAMA_LIKE,
    "mixtral": LLAMA_LIKE,
    "qwen3_moe": LLAMA_LIKE,
}
DTYPES = (torch.float32, torch.bfloat16, torch.float64)
INPUT_IDS = torch.tensor([list(b"every layer of every host"), list(b"is read at four places...")])


@pytest.fixture(scope="module", params=ARCHITECTURES)
def architecture(request):
    return request.param


@pytest.fixture(scope="module")
def host(architecture):
    return make_tiny_host(architecture)


def test_resid_post_is_the_hidden_state_after_the_layer(host, architecture):
    points = [HookPoint(layer, "resid_post") for layer in range(host.num_layers)]
    with torch.no_grad():
        hidden_states = host.model(INPUT_IDS, output_hidden_states=True).hidden_states
        final_norm = host.model.get_submodule(MODULES[architecture][3])

        found = host.activations(INPUT_IDS, None, points)

        for layer in range(host.num_layers - 1):
            assert torch.equal(found[points[layer]], hidden_states[layer + 1])
        assert torch.equal(final_norm(found[points[-1]]), hidden_states[-1])


def test_resid_pre_is_the_hidden_state_before_the_layer(host):
    points = [HookPoint(layer, "resid_pre") for layer in range(host.num_layers)]
    with torch.no_grad():
        hidden_states = host.model(INPUT_IDS, output_hidden_states=True).hidden_states

    found = host.activations(INPUT_IDS, None, points)

    assert all(torch.equal(found[point], hidden_states[point.layer]) for point in points)


def test_attn_out_and_mlp_out_are_what_those_modules_return(host, architecture):
    seen = {}

    def keep(point):
        def hook(_module, _args, output):
            seen[point] = output[0] if isinstance(output, tuple) else output

        return hook

    layers, attn, mlp, _norm = MODULES[architecture]
    paths = {"attn_out": attn, "mlp_out": mlp}
    points = [HookPoint(layer, site) for layer in range(host.num_layers) for site in paths]
    handles = [
        host.model.get_submodule(f"{layers}.{point.layer}.{paths[point.site]}").register_forward_hook(
            keep(point)
        )
        for point in points
    ]

    found = host.activations(INPUT_IDS, None, points)

    for handle in handles:
        handle.remove()
    assert all(torch.equal(found[point], seen[point].view_as(found[point])) for point in points)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_hook_point_is_found_in_every_dtype(architecture, dtype):
    host = make_tiny_host(architecture, dtype=dtype)

    assert host.hook_points() == tuple(HookPoint(layer, site) for layer in range(3) for site in SITES)


def test_attention_and_mlp_together_are_what_a_layer_adds(architecture):
    host = make_tiny_host(architecture, dtype=torch.float64)

    found = host.activations(INPUT_IDS, None, host.hook_points())

    for layer in range(host.num_layers):
        before, after, mlp, attn = (found[HookPoint(layer, site)] for site in SITES)
        torch.testing.assert_close(
            before + attn + mlp, after, rtol=0, atol=1e-12
        )  # rounding of two additions


@pytest.mark.parametrize("site", ["attn_out", "mlp_out"])
def test_a_replaced_output_is_what_is_added(architecture, site):
    host = make_tiny_host(architecture, dtype=torch.float64)
    edited, others = HookPoint(1, site), [point for point in host.hook_points() if point.layer == 1]
    replacement = torch.randn(INPUT_IDS.numel(), host.d_model, dtype=torch.float64)

    handle = host.attach(edited, lambda _rows: replacement)
    found = host.activations(INPUT_IDS, None, others)
    handle.remove()

    before, after, mlp, attn = (found[HookPoint(1, other)] for other in SITES)
    assert torch.equal(found[edited], replacement.view_as(before))
    torch.testing.assert_close(before + attn + mlp, after, rtol=0, atol=1e-12)  # rounding of two additions


def test_hooks_that_return_none_leave_the_logits_bit_identical(host):
    with torch.no_grad():
        plain = host.model(INPUT_IDS).logits
        handles = [host.attach(point, lambda _rows: None) for point in host.hook_points()]
        hooked = host.model(INPUT_IDS).logits
    for handle in handles:
        handle.remove()

    assert torch.equal(plain, hooked)


def test_right_padding_changes_no_activation(host):
    mask = torch.ones_like(INPUT_IDS)
    mask[1, 10:] = 0
    point = HookPoint(2, "resid_post")

    padded = host.activations(INPUT_IDS, mask, [point])[point]
    alone = host.activations(INPUT_IDS[1:, :10], None, [point])[point]

    torch.testing.assert_close(
        padded[1, :10], alone[0], rtol=1e-4, atol=1e-4
    )  # other kernels, other rounding
