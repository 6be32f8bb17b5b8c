"""Pruning against influences found by walking every path."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from steerd.studies.attribution.graph_pruning import prune_graph


def random_graph(seed: int, *, features: int = 6, errors: int = 3, share: float = 0.6) -> np.ndarray:
    """Entry [target, source]: features in layers of two, fed by errors and by features of earlier layers."""
    generator = random.Random(seed)
    size = features + errors + 1
    weights = np.zeros((size, size))
    for target in [*range(features), size - 1]:
        for source in range(size - 1):
            earlier = source >= features or target == size - 1 or source // 2 < target // 2
            if earlier and generator.random() < share:
                weights[target, source] = generator.uniform(-3, 3)
    return weights


def naive_influence(weights: np.ndarray) -> list[float]:
    """The sum over all paths to the last node of the product of the shares on the way."""
    shares = [[abs(w) / (sum(map(abs, row)) or 1) for w in row] for row in weights.tolist()]

    def reached(node: int) -> float:
        onward = (
            shares[target][node] * reached(target) for target in range(len(shares)) if shares[target][node]
        )
        return 1.0 if node == len(shares) - 1 else sum(onward)

    return [reached(node) if node < len(shares) - 1 else 0.0 for node in range(len(shares))]


def fewest(scores: dict[object, float], share: float) -> set[object]:
    """The fewest with that share of the sum, by trying larger and larger sets."""
    ordered = sorted(scores, key=lambda key: -scores[key])
    for count in range(1, len(ordered) + 1):
        if sum(scores[key] for key in ordered[:count]) >= share * sum(scores.values()) - 1e-12:
            return set(ordered[:count])
    return set()


@pytest.mark.parametrize("seed", range(10))
def test_cumulative_influence_and_kept_nodes_are_those_of_all_paths(seed):
    weights = random_graph(seed)
    never = np.zeros(len(weights), dtype=bool)

    graph = prune_graph(weights, num_features=6, always=never, node_threshold=0.7, edge_threshold=1.0)

    influence = naive_influence(weights)
    above = [sum(other for other in influence if other >= mine) / sum(influence) for mine in influence]
    assert graph.cumulative.tolist() == pytest.approx(above)
    kept = set(np.flatnonzero(graph.nodes).tolist()) - {len(weights) - 1}
    assert kept <= fewest(dict(enumerate(influence)), 0.7)


@pytest.mark.parametrize("seed", range(10))
def test_kept_edges_are_the_fewest_that_carry_enough(seed):
    weights = random_graph(seed)

    graph = prune_graph(
        weights, num_features=6, always=np.zeros(10, bool), node_threshold=1.0, edge_threshold=0.7
    )

    reached = [*naive_influence(weights)[:-1], 1.0]
    sums = np.abs(weights).sum(axis=1)
    carried = {
        (target, source): abs(weights[target, source]) / sums[target] * reached[target]
        for target, source in np.argwhere(weights).tolist()
    }
    expected = fewest(carried, 0.7)
    kept = {(target, source) for target, source in np.argwhere(graph.edges).tolist()}
    assert kept <= expected
    assert all(not (graph.nodes[target] and graph.nodes[source]) for target, source in expected - kept)


@pytest.mark.parametrize("seed", range(10))
def test_nothing_is_lost_with_thresholds_of_one(seed):
    weights = random_graph(seed, share=1.0)
    graph = prune_graph(
        weights, num_features=6, always=np.zeros(10, bool), node_threshold=1.0, edge_threshold=1.0
    )

    assert graph.nodes.all()
    assert (graph.edges == (weights != 0)).all()


@pytest.mark.parametrize("seed", range(20))
def test_no_feature_or_error_hangs_loose(seed):
    weights = random_graph(seed, features=10, errors=4)
    graph = prune_graph(
        weights, num_features=10, always=np.zeros(15, bool), node_threshold=0.6, edge_threshold=0.6
    )

    kept = np.flatnonzero(graph.nodes[:-1])
    assert graph.nodes[-1]
    for node, (target, source) in itertools.product(kept, np.argwhere(graph.edges)):
        assert graph.nodes[target]
        assert graph.nodes[source]
        assert graph.edges[:, node].any()
        assert node >= 10 or not weights[node].any() or graph.edges[node].any()


def test_a_strong_edge_into_a_weak_node_goes_and_a_weak_one_into_a_strong_node_stays():
    weights = np.zeros((5, 5))
    weights[4, 0], weights[4, 1] = 99.0, 1.0  # the metric feels node 0 most
    weights[0, 2], weights[0, 3] = 0.06, 0.04
    weights[1, 2] = 50.0

    graph = prune_graph(
        weights, num_features=4, always=np.zeros(5, bool), node_threshold=1.0, edge_threshold=0.99
    )

    assert [tuple(edge) for edge in np.argwhere(graph.edges)] == [(0, 2), (0, 3), (4, 0)]
    assert graph.nodes.tolist() == [True, False, True, True, True]


def test_what_always_stays_does_so_without_influence():
    weights = np.zeros((3, 3))
    weights[2, 0] = 1.0

    graph = prune_graph(
        weights, num_features=1, always=np.array([False, True, False]), node_threshold=0.5, edge_threshold=0.5
    )

    assert graph.nodes.all()
    assert graph.cumulative.tolist() == [1.0, 1.0, 1.0]


def test_a_graph_in_which_nothing_reaches_the_metric_is_empty():
    graph = prune_graph(
        np.zeros((4, 4)), num_features=3, always=np.zeros(4, bool), node_threshold=0.8, edge_threshold=0.98
    )

    assert graph.nodes.tolist() == [False, False, False, True]
    assert not graph.edges.any()
