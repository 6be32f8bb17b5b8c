"""Edges of the graph of all active features against perturbations by hand, and against total effects."""

from __future__ import annotations

from collections import defaultdict
from functools import partial

import pytest
import torch
from torch import Tensor

from steerd.host.hook_point import HookPoint
from steerd.steering.loaded_saes import LoadedSae
from steerd.studies.attribution.direct_edges import DirectGradients, FeatureNode
from steerd.studies.attribution.metric import TokenLogit
from steerd.studies.attribution.wish import Method
from tests.studies.attribution.test_effects import POINTS, effects_of, in_float64
from tests.studies.attribution.tiny_prompts import RowEdit, loaded, naive_logits, random_ids
from tests.tiny_hosts import make_tiny_host

STEP = 1e-5
METRIC = TokenLogit(65, 66)
UNCOUNTED = frozenset({0, 3})
COUNTED = [1, 2, 4]


def nodes_of(effects):
    """Every active feature of every SAE."""
    return [
        FeatureNode(number, int(feature), int(position))
        for number, explained in enumerate(effects.explained)
        for feature, position in zip(explained.features, explained.positions, strict=True)
    ]


def edge_weights(effects, nodes) -> Tensor:
    """[targets, sources], the metric being the last target."""
    points = [HookPoint.parse(point) for point in POINTS]
    direct = DirectGradients(effects.prompt, effects.explained, points)
    columns = [
        explained.effects(gradients[point])
        for gradients in map(direct.of, [*nodes, None])
        for point, explained in zip(points, effects.explained, strict=True)
    ]
    per_target = len(effects.explained)
    return torch.stack([torch.cat(columns[i : i + per_target]) for i in range(0, len(columns), per_target)])


@pytest.fixture(scope="module", params=["opt", "gpt2"])
def case(request):
    host, ids = make_tiny_host(request.param, dtype=torch.float64), random_ids(1, length=5)
    saes = [in_float64(sae) for sae in loaded(host, *POINTS, d_sae=10)]
    effects = effects_of(host, ids, saes, Method.GRADIENT, METRIC, uncounted=UNCOUNTED)
    nodes = nodes_of(effects)
    return host, ids, effects, nodes, edge_weights(effects, nodes)


def test_all_paths_together_are_the_total_effects(case):
    _, _, effects, nodes, weights = case
    acts = torch.cat([explained.acts for explained in effects.explained])
    total = torch.cat([effects.predicted[number] for number in range(3)])

    # effect(u) = edge(u, metric) + sum over n of edge(u, n) * effect(n) / z(n), from the last layer back
    by_paths = torch.zeros_like(total)
    for number in (2, 1, 0):
        mine = torch.tensor([node.explained == number for node in nodes])
        found = weights[-1] + (by_paths / acts) @ weights[:-1]
        by_paths = torch.where(mine, found, by_paths)

    assert len(nodes) > 20
    assert torch.allclose(by_paths, total, rtol=1e-8, atol=1e-10)
    assert not torch.allclose(weights[-1], total, rtol=0.2)


def frozen(sae: LoadedSae, clean: Tensor, rows: Tensor) -> Tensor:
    """Rows whose features, where they count, add what they add to the clean rows; the rest is as it came."""
    edited = rows.clone()
    edited[COUNTED] += (sae.sae.encode(clean) - sae.sae.encode(rows))[COUNTED] @ sae.sae.W_dec
    return edited


def test_an_edge_is_what_a_push_on_one_feature_does_to_the_next_while_features_between_are_held(case):
    host, ids, effects, nodes, weights = case
    saes = [explained.sae for explained in effects.explained]
    clean = [effects.clean.rows[HookPoint.parse(point)] for point in POINTS]
    acts = torch.cat([explained.acts for explained in effects.explained])
    seen: dict[str, Tensor] = {}

    def look(point: str, then: RowEdit, rows: Tensor) -> Tensor:
        seen[point] = rows.clone()
        return then(rows)

    def run(source: FeatureNode, size: float) -> tuple[dict[str, Tensor], float]:
        def push(rows: Tensor) -> Tensor:
            edited = rows.clone()
            edited[source.position] += size * saes[source.explained].sae.W_dec[source.feature]
            return edited

        edits: dict[str, RowEdit] = defaultdict()
        edits[POINTS[source.explained]] = push
        for later in range(source.explained + 1, 3):
            edits[POINTS[later]] = partial(look, POINTS[later], partial(frozen, saes[later], clean[later]))
        last = naive_logits(host, ids, edits)[-1]
        return dict(seen), float(last[65] - last[66])

    for number in range(0, len(nodes), max(1, len(nodes) // 6)):
        source = nodes[number]
        (more, high), (less, low) = run(source, STEP), run(source, -STEP)
        assert float(weights[-1, number]) == pytest.approx(
            float(acts[number]) * (high - low) / (2 * STEP), rel=1e-4, abs=1e-7
        )
        for target, node in enumerate(nodes):
            if node.explained <= source.explained:
                assert float(weights[target, number]) == 0
                continue
            encode = saes[node.explained].sae.encode
            point = POINTS[node.explained]
            change = (encode(more[point]) - encode(less[point]))[node.position, node.feature]
            expected = float(acts[number] * change) / (2 * STEP)
            assert float(weights[target, number]) == pytest.approx(expected, rel=1e-4, abs=1e-7)


def test_the_forward_is_the_hosts_own_to_the_bit():
    host, ids = make_tiny_host("llama"), random_ids(2)
    effects = effects_of(host, ids, loaded(host, *POINTS), Method.GRADIENT)

    direct = DirectGradients(effects.prompt, effects.explained, [HookPoint(0, "resid_pre")])

    assert torch.equal(direct.logits, effects.clean.logits)
