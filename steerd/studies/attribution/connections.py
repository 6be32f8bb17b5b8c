"""The attribution graph of chosen nodes: its edges, weighed slice by slice, and what is kept of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from steerd.host.hook_point import HookPoint
from steerd.studies.attribution.direct_edges import DirectGradients, FeatureNode, Target
from steerd.studies.attribution.graph_pruning import Floats, PrunedGraph, prune_graph
from steerd.studies.attribution.node_choice import ChosenNode
from steerd.studies.attribution.node_effects import NodeEffects
from steerd.studies.attribution.result import NodeKind


@dataclass(slots=True)
class Connections:
    """Edges from every node to every feature and to the metric: what the source adds to the target, linearly.

    A source's vector times the target's direct gradient (`direct_edges`), so that a feature's edge is its
    activation times the derivative of the target's activation. Features are the first of `nodes`.
    """

    effects: NodeEffects
    nodes: Sequence[ChosenNode]
    _rows: list[Tensor] = field(default_factory=list)  # [nodes], of each target

    @property
    def num_features(self) -> int:
        """How many of the nodes are features."""
        return sum(node.kind is NodeKind.FEATURE for node in self.nodes)

    def run(self, copies: int) -> Iterator[None]:
        """A forward, then the edges into `copies` targets a slice, a backward each."""
        features = self.nodes[: self.num_features]
        targets: list[Target] = [
            *(FeatureNode(node.explained, node.feature, node.part.position) for node in features),
            None,
        ]
        points = sorted({node.part.hook_point for node in self.nodes})
        direct = DirectGradients(self.effects.prompt, self.effects.explained, points)
        yield
        for start in range(0, len(targets), copies):
            self._rows += [self._weights(direct.of(target)) for target in targets[start : start + copies]]
            yield

    def weights(self) -> Floats | None:
        """Of all edges [target, source], the metric being the last node; None until all are weighed."""
        rows = torch.stack(self._rows).double().cpu().numpy() if self._rows else np.zeros((0, 0))
        if len(rows) <= self.num_features:
            return None
        size = len(self.nodes) + 1
        weights = np.zeros((size, size))
        weights[: self.num_features, :-1] = rows[:-1]
        weights[-1, :-1] = rows[-1]
        return weights

    def pruned(self, weights: Floats, *, node_threshold: float, edge_threshold: float) -> PrunedGraph:
        """What is kept of them; embeddings always are."""
        always = [node.kind is NodeKind.EMBEDDING for node in self.nodes]
        return prune_graph(
            weights,
            num_features=self.num_features,
            always=np.array([*always, False]),
            node_threshold=node_threshold,
            edge_threshold=edge_threshold,
        )

    def _weights(self, gradients: Mapping[HookPoint, Tensor]) -> Tensor:
        """Of the edges into the target that has these gradients, [nodes]."""
        parts = [node.part for node in self.nodes]
        return torch.stack([gradients[part.hook_point][part.position] @ part.vector for part in parts])
