"""Which nodes and edges of an attribution graph carry what reaches its target."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class PrunedGraph:
    """What is kept: `nodes` [nodes] and `edges` [nodes, nodes], and the `cumulative` influence of each node
    [nodes]: the share of all influence that it and the more influential nodes have together."""

    nodes: Flags
    edges: Flags
    cumulative: Floats


def prune_graph(
    weights: Floats, *, num_features: int, always: Flags, node_threshold: float, edge_threshold: float
) -> PrunedGraph:
    """Prune a graph [nodes, nodes] whose entry [target, source] is the weight of an edge; it has no cycles.

    The first `num_features` nodes are features, the last is the target; those of `always` stay whatever their
    influence is. This is the cumulative influence pruning of circuit-tracer (Ameisen et al., "Circuit
    Tracing", 2025): each node's incoming weights, made absolute and divided by their sum, say how its
    influence is shared out; a node's influence is what reaches it from the target over all paths. The fewest
    nodes are kept that have `node_threshold` of all influence together, of their edges the fewest that have
    `edge_threshold`. In the end no feature or error is kept that leads nowhere, and no feature that nothing
    leads to, unless it is in the graph's first layer, where nothing can.
    """
    influence = _influence(_shares(weights))
    nodes = influence >= _threshold(influence[:-1], node_threshold)
    nodes |= always
    nodes[-1] = True
    kept = np.where(nodes[:, None] & nodes[None, :], weights, 0.0)
    shares = _shares(kept)
    reached = _influence(shares)
    reached[-1] = 1.0
    scores = shares * reached[:, None]
    edges = (scores >= _threshold(scores.ravel(), edge_threshold)) & (scores > 0)
    fed: Flags = (weights[:num_features] != 0).any(axis=1)  # features that something could lead to
    nodes, edges = _without_loose_ends(nodes, edges, always, fed)
    return PrunedGraph(nodes=nodes, edges=edges, cumulative=_cumulative(influence))


def _shares(weights: Floats) -> Floats:
    sizes = np.abs(weights)
    total = sizes.sum(axis=1, keepdims=True)
    shares: Floats = np.divide(sizes, total, out=np.zeros_like(sizes), where=total > 0)
    return shares


def _influence(shares: Floats) -> Floats:
    """Of each node on the last, over paths of every length; there are no cycles, so that they end."""
    reached: Floats = shares[-1]
    total = np.zeros_like(reached)
    for _ in range(len(shares)):
        if not reached.any():
            break
        total += reached
        reached = reached @ shares
    return total


def _threshold(scores: Floats, share: float) -> float:
    """The smallest score among the fewest that have that share of the sum together."""
    ordered = np.sort(scores)[::-1]
    sums = np.cumsum(ordered)
    if not len(sums) or sums[-1] <= 0:
        return 0.0
    number = int(np.searchsorted(sums, share * sums[-1]))
    positive = int((ordered > 0).sum())
    return float(ordered[min(number, positive - 1)])


def _cumulative(influence: Floats) -> Floats:
    order = np.argsort(-influence, kind="stable")
    total = influence.sum()
    result = np.ones_like(influence)
    if total > 0:
        result[order] = np.minimum(np.cumsum(influence[order]) / total, 1.0)
    return result


def _without_loose_ends(nodes: Flags, edges: Flags, always: Flags, fed: Flags) -> tuple[Flags, Flags]:
    num_features = len(fed)
    while True:
        edges = edges & nodes[:, None] & nodes[None, :]
        kept = nodes & (edges.any(axis=0) | always)
        kept[-1] = True
        kept[:num_features] &= edges[:num_features].any(axis=1) | ~fed
        if (kept == nodes).all():
            return kept, edges
        nodes = kept
