"""Layers in which attention and MLP are hard to find, or are not there to be found."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import GraniteConfig

from steerd.errors import HostError
from steerd.host.decoder_layers import LayerCall
from steerd.host.hook_point import HookPoint
from steerd.host.sublayers import find_sublayers
from tests.tiny_hosts import VOCAB_SIZE, host_from_config, make_tiny_host


class Mixer(nn.Module):
    """Causal averaging: the least that attention does. Returns a tuple, as attention does."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(8, 8)

    def forward(self, x):
        return self.out(x.cumsum(dim=1)), None


class Layer(nn.Module):
    def __init__(self, add, scale=1.0) -> None:
        super().__init__()
        self.first, self.second, self.norm = Mixer(), nn.Linear(8, 8), nn.LayerNorm(8)
        self.dropout = nn.Dropout(0.5)
        self.add, self.scale = add, scale

    def forward(self, hidden_states):
        return self.add(self, hidden_states)


def attention_first(layer, x):
    x = x + layer.scale * layer.first(layer.norm(x))[0]
    return x + layer.second(x)


def mlp_first(layer, x):
    x = x + layer.second(layer.norm(x))
    return x + layer.first(x)[0]


def parallel(layer, x):
    return layer.dropout(layer.second(x)) + layer.first(layer.norm(x))[0] + x


def post_norm(layer, x):
    x = layer.norm(x + layer.first(x)[0])
    return x + layer.second(x)


def two_mlps(layer, x):
    x = x + layer.dropout(layer.first.out(x))
    return x + layer.second(x)


def three_summands(layer, x):
    return x + layer.first(x)[0] + layer.second(x) + layer.norm(x)


def calls(layer, *, form="argument"):
    generator = torch.Generator().manual_seed(1)
    layer = layer.eval().requires_grad_(False)
    for parameter in layer.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator))
    resid = torch.randn(1, 6, 8, generator=generator)
    args, kwargs = ((), {"hidden_states": resid}) if form == "keyword" else ((resid,), {})
    return LayerCall(layer, args, kwargs, resid, layer(*args, **kwargs))


def found_in(call):
    return find_sublayers(call, may_use=lambda _module: True)


@pytest.mark.parametrize("form", ["argument", "keyword"])
@pytest.mark.parametrize("add", [attention_first, mlp_first])
def test_attention_is_the_one_that_mixes_tokens_whichever_comes_first(add, form):
    layer = Layer(add)

    assert found_in(calls(layer, form=form)) == (layer.first, layer.second)


def test_of_equal_outputs_the_one_nearest_to_the_stream_is_taken():
    layer = Layer(parallel)

    assert found_in(calls(layer)) == (layer.first, layer.dropout)


@pytest.mark.parametrize("add", [post_norm, three_summands])
def test_what_is_not_added_as_it_is_is_refused(add):
    with pytest.raises(
        HostError, match=r"cannot tell what attention and MLP add.*0 pairs.*resid_post are available"
    ):
        found_in(calls(Layer(add)))


def test_a_scaled_output_is_refused():
    with pytest.raises(HostError, match="scale or normalise"):
        found_in(calls(Layer(attention_first, scale=0.5)))


def test_two_outputs_that_mix_nothing_are_refused():
    with pytest.raises(HostError, match="neither of the outputs it adds depend on earlier tokens"):
        found_in(calls(Layer(two_mlps)))


def test_a_module_used_elsewhere_is_not_taken():
    layer = Layer(attention_first)

    with pytest.raises(HostError, match="0 pairs"):
        find_sublayers(calls(layer), may_use=lambda module: module is not layer.second)


@pytest.mark.parametrize(
    ("architecture", "overrides"),
    [("opt", {"do_layer_norm_before": False}), ("gpt_neox", {"use_parallel_residual": False})],
)
def test_options_of_an_architecture_are_told_by_the_experiment(architecture, overrides):
    host = make_tiny_host(architecture, **overrides)
    sites = {point.site for point in host.hook_points()}

    if architecture == "opt":  # normalised after the addition: not the stream's own summands
        assert sites == {"resid_pre", "resid_post"}
    else:
        assert sites == {"resid_pre", "resid_post", "attn_out", "mlp_out"}


def test_scaled_residuals_end_in_an_error_and_leave_the_stream_readable():
    config = GraniteConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        residual_multiplier=0.22,
    )
    host = host_from_config(config)

    with pytest.raises(HostError, match="GraniteDecoderLayer"):
        host.attach(HookPoint(0, "mlp_out"), lambda _rows: None)
    assert {point.site for point in host.hook_points()} == {"resid_pre", "resid_post"}
