"""Predicted effects against naive ablations and against the arithmetic they stand for."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from steerd.errors import InvalidRequest
from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel
from steerd.sae.autoencoder import SparseAutoencoder
from steerd.steering.loaded_saes import LoadedSae
from steerd.studies.attribution.ablation import Ablations, Part, ablation_effects
from steerd.studies.attribution.integrated_gradients import GroupedPaths, deal
from steerd.studies.attribution.metric import AnswerLogprob, Metric, TokenLogit
from steerd.studies.attribution.node_effects import NodeEffects
from steerd.studies.attribution.scored_prompt import ScoredPrompt
from steerd.studies.attribution.wish import Method
from tests.studies.attribution.tiny_prompts import RowEdit, loaded, naive_logits, naive_rows, random_ids
from tests.tiny_hosts import ARCHITECTURES, make_tiny_host

POINTS = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post", "blocks.2.hook_resid_post")
METRIC = TokenLogit(65, 66)
ONE_PATH = GroupedPaths(groups=1, steps=1)


def effects_of(
    host: HostModel,
    ids: tuple[int, ...],
    saes: list[LoadedSae],
    method: Method,
    metric: Metric = METRIC,
    paths: GroupedPaths = ONE_PATH,
    uncounted: frozenset[int] = frozenset({0}),
) -> NodeEffects:
    counted = torch.tensor([position not in uncounted for position in range(len(ids))])
    effects = NodeEffects(ScoredPrompt(host, ids, metric), saes, counted, method=method, paths=paths)
    for _ in effects.run(4):
        pass
    return effects


def without(point: str, position: int, vector: Tensor) -> dict[str, RowEdit]:
    def edit(rows: Tensor) -> Tensor:
        edited = rows.clone()
        edited[position] -= vector.to(rows.dtype)
        return edited

    return {point: edit}


def naive_metric(host: HostModel, ids: tuple[int, ...], edits: dict[str, RowEdit] | None = None) -> float:
    last = naive_logits(host, ids, edits)[-1]
    return float(last[65] - last[66])


def faint(sae: LoadedSae, scale: float = 1e-4) -> LoadedSae:
    """Its directions so short that what it explains of a row hardly matters: effects become linear."""
    weights = {**{name: getattr(sae.sae, name) for name in ("W_enc", "b_enc", "b_dec", "activation")}}
    return dataclasses.replace(sae, sae=SparseAutoencoder(**weights, W_dec=sae.sae.W_dec * scale))


def in_float64(sae: LoadedSae) -> LoadedSae:
    return dataclasses.replace(sae, sae=sae.sae.to(dtype=torch.float64))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_activation_times_gradient_is_the_first_order_effect_of_an_ablation_in_the_host_itself(architecture):
    host, ids = make_tiny_host(architecture, dtype=torch.float64), random_ids(1)
    saes = [faint(in_float64(sae)) for sae in loaded(host, *POINTS)]
    clean = naive_metric(host, ids)

    effects = effects_of(host, ids, saes, Method.GRADIENT)

    for number, (point, explained) in enumerate(zip(POINTS, effects.explained, strict=True)):
        predicted = effects.predicted[number]
        for node in predicted.abs().topk(3).indices.tolist():
            z, direction = explained.acts[node], explained.sae.sae.W_dec[explained.features[node]]
            measured = clean - naive_metric(
                host, ids, without(point, int(explained.positions[node]), z * direction)
            )
            assert float(predicted[node]) == pytest.approx(measured, rel=0.02)


@pytest.mark.parametrize("method", [Method.GRADIENT, Method.INTEGRATED_GRADIENTS])
def test_nodes_are_the_active_features_of_counted_rows_with_the_activations_that_are_captured(method):
    host, ids = make_tiny_host("gpt2"), random_ids(2)
    saes = loaded(host, "blocks.1.hook_mlp_out", "blocks.2.hook_resid_pre", activation="topk")

    effects = effects_of(host, ids, saes, method)

    for sae, explained in zip(saes, effects.explained, strict=True):
        rows = naive_rows(host, ids, str(sae.hook_point))
        acts = sae.sae.encode(rows)
        acts[0] = 0
        dense = torch.zeros_like(acts)
        dense[explained.positions, explained.features] = explained.acts
        assert torch.allclose(dense, acts, atol=1e-5)
        whole = dense @ sae.sae.W_dec + explained.error + sae.sae.b_dec
        assert torch.allclose(whole[1:], rows[1:], atol=1e-5)
        assert not explained.error[0].any()


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox", "gemma2"])
@pytest.mark.parametrize("groups", [1, 3])
def test_integrated_gradients_add_up_to_what_is_lost_when_each_group_goes(architecture, groups):
    host, ids = make_tiny_host(architecture, dtype=torch.float64), random_ids(3)
    saes = [in_float64(sae) for sae in loaded(host, *POINTS[:2])]
    clean = naive_metric(host, ids)

    effects = effects_of(host, ids, saes, Method.INTEGRATED_GRADIENTS, paths=GroupedPaths(groups, 24))

    for number, (point, explained) in enumerate(zip(POINTS, effects.explained, strict=False)):
        for nodes in deal(explained, groups):
            gone = torch.zeros(len(ids), explained.sae.sae.d_sae, dtype=torch.float64)
            gone[explained.positions[nodes], explained.features[nodes]] = explained.acts[nodes]
            lost = clean - naive_metric(
                host, ids, {point: lambda rows, gone=gone, sae=explained.sae.sae: rows - gone @ sae.W_dec}
            )
            assert float(effects.predicted[number][nodes].sum()) == pytest.approx(lost, rel=0.02, abs=0.02)


def test_without_groups_left_to_share_integrated_gradients_are_single_ablations():
    host, ids = make_tiny_host("llama"), random_ids(10, length=4)
    (sae,) = loaded(host, POINTS[1], activation="topk")
    most = 8 * len(ids)

    effects = effects_of(host, ids, [sae], Method.INTEGRATED_GRADIENTS, paths=GroupedPaths(most, 6))

    explained = effects.explained[0]
    nodes = torch.arange(0, len(explained), 7)
    parts = [Part(sae.hook_point, int(explained.positions[i]), explained.vectors(i[None])[0]) for i in nodes]
    measured = ablation_effects(effects.prompt, parts)
    assert effects.predicted[0][nodes].tolist() == pytest.approx(measured, rel=0.02, abs=0.01)


def test_every_node_is_dealt_to_one_group_and_the_largest_to_different_ones():
    host, ids = make_tiny_host("llama"), random_ids(11)
    explained = effects_of(host, ids, loaded(host, POINTS[1]), Method.GRADIENT).explained[0]

    dealt = deal(explained, 4)

    assert sorted(torch.cat(dealt).tolist()) == list(range(len(explained)))
    lengths = explained.vectors(torch.arange(len(explained))).norm(dim=1)
    assert {int((group == lengths.topk(4).indices[n]).any()) for n, group in enumerate(dealt)} == {1}


@pytest.fixture
def linear_host() -> HostModel:
    """Layers that add nothing and no final norm: logits are a linear map of the embeddings."""
    host = make_tiny_host("llama")
    for layer in host.model.model.layers:
        layer.self_attn.o_proj.weight.data.zero_()
        layer.mlp.down_proj.weight.data.zero_()
    host.model.model.norm = nn.Identity()
    return host


@pytest.mark.parametrize("method", [Method.GRADIENT, Method.INTEGRATED_GRADIENTS])
def test_in_a_linear_host_every_prediction_is_the_exact_effect(linear_host, method):
    ids = random_ids(4)

    effects = effects_of(linear_host, ids, loaded(linear_host, *POINTS), method, paths=GroupedPaths(2, 3))

    for number, explained in enumerate(effects.explained):
        predicted = effects.predicted[number]
        last = (explained.positions == len(ids) - 1).nonzero().flatten()
        parts = [
            Part(explained.sae.hook_point, len(ids) - 1, explained.vectors(last[i : i + 1])[0])
            for i in range(len(last))
        ]
        assert len(parts) > 5
        assert predicted[last].tolist() == pytest.approx(ablation_effects(effects.prompt, parts), abs=1e-4)
        assert not predicted[explained.positions < len(ids) - 1].any()


def test_direct_attribution_needs_a_final_norm(linear_host):
    with pytest.raises(InvalidRequest, match="method: direct needs a norm"):
        effects_of(linear_host, random_ids(4), loaded(linear_host, POINTS[0]), Method.DIRECT)


def rms_norm(norm: nn.Module, x: Tensor, added: Tensor, *, gain: float) -> Tensor:
    scale = (x.square().mean() + 1e-6).rsqrt()
    return added * scale * (gain + norm.weight)


def layer_norm(norm: nn.Module, x: Tensor, added: Tensor) -> Tensor:
    return (added - added.mean()) / (x.var(correction=0) + 1e-5).sqrt() * norm.weight


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3"])
def test_direct_effects_are_those_of_the_head_behind_a_norm_with_its_scale_held(architecture):
    host, ids = make_tiny_host(architecture), random_ids(5)
    saes = loaded(host, *POINTS)
    x = naive_rows(host, ids, POINTS[2])[-1]
    norm = {"gpt2": lambda m: m.transformer.ln_f}.get(architecture, lambda m: m.model.norm)(host.model)
    head = host.model.lm_head.weight[65] - host.model.lm_head.weight[66]

    effects = effects_of(host, ids, saes, Method.DIRECT)

    for number, explained in enumerate(effects.explained):
        predicted = effects.predicted[number]
        assert not predicted[explained.positions < len(ids) - 1].any()
        for node in (explained.positions == len(ids) - 1).nonzero().flatten().tolist():
            added = explained.acts[node] * explained.sae.sae.W_dec[explained.features[node]]
            if architecture == "gpt2":
                normed = layer_norm(norm, x, added)
            else:
                normed = rms_norm(norm, x, added, gain=float(architecture == "gemma3"))
            assert float(predicted[node]) == pytest.approx(float(normed @ head), rel=1e-2, abs=1e-4)


def test_direct_effects_behind_a_soft_cap_are_scaled_by_its_slope():
    host, ids = make_tiny_host("gemma2", final_logit_softcapping=5.0), random_ids(6)
    x = naive_rows(host, ids, POINTS[2])[-1]
    last = naive_logits(host, ids)[-1].float()

    effects = effects_of(host, ids, loaded(host, POINTS[0]), Method.DIRECT, TokenLogit(65))

    explained = effects.explained[0]
    node = int((explained.positions == len(ids) - 1).nonzero()[0])
    added = explained.acts[node] * explained.sae.sae.W_dec[explained.features[node]]
    raw = rms_norm(host.model.model.norm, x, added, gain=1.0) @ host.model.lm_head.weight[65]
    expected = float(raw) * (1 - float(last[65] / 5) ** 2)
    assert float(effects.predicted[0][node]) == pytest.approx(expected, rel=1e-2)


def test_direct_effects_of_two_answers_are_felt_through_their_first_tokens():
    host, ids = make_tiny_host("llama"), random_ids(7)
    saes = loaded(host, POINTS[1])

    answers = effects_of(host, ids, saes, Method.DIRECT, AnswerLogprob((65, 70), (66, 71, 72)))
    tokens = effects_of(host, ids, saes, Method.DIRECT, TokenLogit(65, 66))

    assert torch.allclose(answers.gradients[0], tokens.gradients[0], atol=1e-4)
    assert tokens.gradients[0].any()


def test_the_gradient_of_two_answers_counts_what_a_row_does_in_both_texts():
    host, ids = make_tiny_host("llama", dtype=torch.float64), random_ids(8)
    saes = [faint(in_float64(sae)) for sae in loaded(host, POINTS[0])]
    prompt = ScoredPrompt(host, ids, AnswerLogprob((65, 70), (66, 71, 72)))

    effects = effects_of(host, ids, saes, Method.GRADIENT, AnswerLogprob((65, 70), (66, 71, 72)))

    explained = effects.explained[0]
    predicted = effects.predicted[0]
    for node in predicted.abs().topk(4).indices:
        part = Part(
            HookPoint(0, "resid_post"), int(explained.positions[node]), explained.vectors(node[None])[0]
        )
        (measured,) = ablation_effects(prompt, [part])
        assert float(predicted[node]) == pytest.approx(measured, rel=0.02)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_ablations_of_a_batch_are_those_of_each_alone(architecture):
    host, ids = make_tiny_host(architecture), random_ids(9)
    generator = torch.Generator().manual_seed(1)
    places = [
        ("blocks.0.hook_resid_pre", 2),
        ("blocks.1.hook_resid_post", 4),
        ("blocks.1.hook_resid_post", 6),
    ]
    vectors = torch.randn(3, 32, generator=generator)
    parts = [
        Part(HookPoint.parse(point), position, vector)
        for (point, position), vector in zip(places, vectors, strict=True)
    ]

    found = ablation_effects(ScoredPrompt(host, ids, METRIC), parts)

    clean = naive_metric(host, ids)
    expected = [
        clean - naive_metric(host, ids, without(point, position, vector))
        for (point, position), vector in zip(places, vectors, strict=True)
    ]
    assert found == pytest.approx(expected, abs=1e-3)
    assert sum(abs(effect) > 1e-3 for effect in expected) > 1


@pytest.mark.parametrize("copies", [1, 2, 3, 5, 40])
@pytest.mark.parametrize("metric", [METRIC, AnswerLogprob((65, 70), (66, 71, 72))])
def test_many_ablations_are_those_of_each_alone_in_forwards_of_any_size(copies, metric):
    host, ids = make_tiny_host("llama"), random_ids(12)
    generator = torch.Generator().manual_seed(2)
    points = [HookPoint.parse(point) for point in (*POINTS, "blocks.1.hook_mlp_out")]
    parts = [
        Part(points[int(torch.randint(4, (1,), generator=generator))], n % len(ids), vector)
        for n, vector in enumerate(torch.randn(13, 32, generator=generator))
    ]
    prompt = ScoredPrompt(host, ids, metric)
    ablations, firsts = Ablations(prompt, parts, copies), []

    for _ in ablations.run():
        firsts.append(min(set(range(13)) - set(ablations.effects), default=13))

    alone = [ablation_effects(prompt, [part])[0] for part in parts]
    assert [ablations.effects[n] for n in range(13)] == pytest.approx(alone, abs=1e-3)
    assert max(map(abs, alone)) > 0.1
    assert len(firsts) == ablations.num_slices
    # Every forward takes out the first part that is left, but those that only look at the whole.
    assert len(set(firsts)) >= len(firsts) - (4 if copies == 1 else 0)
