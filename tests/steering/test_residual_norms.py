from __future__ import annotations

import pytest
import torch

from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel
from steerd.steering.intervention import FeatureRef, WholeSae, unit_direction
from steerd.steering.loaded_saes import LoadedSaes
from steerd.steering.residual_norms import ORDINARY_TEXT, median_norms
from tests.tiny_hosts import make_tiny_host
from tests.tiny_saes import tiny_sae


@pytest.mark.parametrize("max_context", [64, 512])
def test_norms_are_those_of_a_plain_forward_over_the_text(max_context: int) -> None:
    host = make_tiny_host("llama", max_position_embeddings=max_context)
    ids = host.tokenizer(ORDINARY_TEXT, return_tensors="pt")["input_ids"][:, : min(256, max_context)]
    with torch.no_grad():
        states = host.model(input_ids=ids, output_hidden_states=True).hidden_states

    found = median_norms(host, [HookPoint(layer, "resid_pre") for layer in range(3)])

    for layer in range(3):
        lengths = states[layer][0, 1:].norm(dim=1)  # the first row is unlike all others
        assert found[HookPoint(layer, "resid_pre")] == pytest.approx(float(lengths.median()), rel=1e-5)


def test_every_site_is_measured_and_the_host_is_left_as_it_was(tiny_host: HostModel) -> None:
    points = tiny_host.hook_points()
    ids = torch.tensor([[1, 2, 3]])
    before = tiny_host.activations(ids, None, points)

    found = median_norms(tiny_host, points)

    assert found.keys() == set(points)
    assert all(norm > 0 for norm in found.values())
    assert found == median_norms(tiny_host, points)
    after = tiny_host.activations(ids, None, points)
    assert all(torch.equal(before[point], after[point]) for point in points)


def test_a_record_of_any_sae_at_the_hook_point_goes_before_what_was_measured(tiny_host: HostModel) -> None:
    saes = LoadedSaes(tiny_host)
    for name, layer, norm in (("silent", 1, None), ("recorded", 1, 7.5), ("alone", 2, None)):
        bundle = tiny_sae(tiny_host, f"blocks.{layer}.hook_resid_post")
        if norm is not None:
            bundle.metadata.provenance["median_resid_norm"] = norm
        saes.add(name, bundle)
    saes.measure_norms()

    assert saes.median_resid_norm(WholeSae("silent")) == 7.5
    assert saes.median_resid_norm(unit_direction("blocks.1.hook_resid_post", [1.0])) == 7.5
    measured = median_norms(tiny_host, [HookPoint(2, "resid_post"), HookPoint(1, "resid_pre")])
    assert saes.median_resid_norm(FeatureRef("alone", 0)) == measured[HookPoint(2, "resid_post")]
    elsewhere = unit_direction("blocks.1.hook_resid_pre", [1.0])
    assert saes.median_resid_norm(elsewhere) == measured[HookPoint(1, "resid_pre")]
