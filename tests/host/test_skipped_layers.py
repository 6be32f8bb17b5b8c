"""Forwards that begin after a layer give what whole ones give, on every host that allows it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from steerd.host.hook_point import SITES, HookPoint
from tests.tiny_hosts import ARCHITECTURES, make_tiny_host

INPUT_IDS = torch.tensor([list(b"every layer of every host"), list(b"is read at four places...")])


@pytest.fixture(scope="module", params=ARCHITECTURES)
def host(request):
    return make_tiny_host(request.param)


def left(host, layer: int, ids: Tensor = INPUT_IDS) -> Tensor:
    """What leaves a layer of a whole forward, [batch, seq, d_model]."""
    point = HookPoint(layer, "resid_post")
    return host.activations(ids, None, [point])[point]


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_after_any_layer_the_logits_are_those_of_a_whole_forward(host, layer):
    whole = host.logits(INPUT_IDS, None)
    known = left(host, layer)

    assert host.resumes_after(layer)
    with host.resumed(layer, known):
        rest = host.logits(INPUT_IDS, None)
        other = host.logits(INPUT_IDS.flip(1), None)

    torch.testing.assert_close(rest, whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(other[:, -1], whole[:, -1], rtol=1e-5, atol=1e-5)  # the ids are not looked at
    assert torch.equal(host.logits(INPUT_IDS, None), whole)


@pytest.mark.parametrize("site", SITES)
def test_edits_from_there_on_are_those_of_a_whole_forward(host, site):
    point = HookPoint(1, site)
    push = torch.randn(32, generator=torch.Generator().manual_seed(0))
    known = left(host, point.layers_before - 1)

    handle = host.attach(point, lambda rows: rows + push)
    whole = host.logits(INPUT_IDS, None)
    with host.resumed(point.layers_before - 1, known):
        rest = host.logits(INPUT_IDS, None)
    handle.remove()

    torch.testing.assert_close(rest, whole, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(rest, host.logits(INPUT_IDS, None), atol=1e-2)


def test_no_layer_before_is_run():
    host, run = make_tiny_host("llama"), []
    for number, layer in enumerate(host.model.model.layers):
        layer.mlp.register_forward_hook(lambda *_args, number=number: run.append(number))
    known = left(host, 1)
    run.clear()

    with host.resumed(1, known):
        host.logits(INPUT_IDS, None)

    assert run == [2]


def test_a_host_whose_later_layers_look_further_back_does_not_resume():
    host, kept = make_tiny_host("llama"), []
    layers = host.model.model.layers
    layers[0].mlp.register_forward_hook(lambda _module, _args, output: kept.append(output))
    layers[2].mlp.register_forward_hook(lambda _module, _args, output: output + kept[-1])

    assert [host.resumes_after(layer) for layer in range(3)] == [False, False, True]


def test_a_host_whose_later_layers_miss_something_does_not_resume():
    host, kept = make_tiny_host("llama"), []
    layers = host.model.model.layers
    layers[0].mlp.register_forward_hook(lambda _module, _args, output: kept.append(output))
    layers[1].mlp.register_forward_hook(lambda _module, _args, output: output + kept.pop())

    assert not host.resumes_after(0)
    kept.clear()
    assert host.resumes_after(1)


@pytest.mark.parametrize("last", [1, 4, 25])
def test_logits_of_the_last_positions_alone(host, last):
    whole = host.logits(INPUT_IDS, None)

    torch.testing.assert_close(
        host.logits(INPUT_IDS, None, last=last), whole[:, -last:], rtol=1e-5, atol=1e-5
    )


def test_a_host_that_cannot_keep_the_last_logits_alone_gives_them_all_the_same():
    host = make_tiny_host("llama")
    forward, seen = host.model.forward, []

    def without(input_ids, attention_mask, use_cache):
        output = forward(input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache)
        seen.append(output.logits.shape[1])
        return output

    host.model.forward = without

    assert host.logits(INPUT_IDS, None, last=2).shape[1] == 2
    assert seen == [25]
