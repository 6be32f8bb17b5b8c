"""What an attribution has found so far, and how it is told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from steerd.host.host_model import HostModel
from steerd.host.token_texts import TokenTexts
from steerd.studies.attribution.ablation import Ablations
from steerd.studies.attribution.check import check_of
from steerd.studies.attribution.connections import Connections
from steerd.studies.attribution.graph_pruning import Floats, PrunedGraph
from steerd.studies.attribution.metric import answers_of
from steerd.studies.attribution.node_choice import ChosenNode
from steerd.studies.attribution.node_effects import NodeEffects
from steerd.studies.attribution.result import AttributedNode, Attribution, AttributionEdge, NodeKind, SaeTotal
from steerd.studies.attribution.wish import AttributionWish


@dataclass(slots=True)
class Findings:
    """The chosen nodes: features, errors and embeddings, controls.

    `ablations` take out those of `top` and then of `controls`, None if none is to be.
    """

    top: Sequence[ChosenNode]
    rest: Sequence[ChosenNode]
    controls: Sequence[ChosenNode]
    ablations: Ablations | None = None
    connections: Connections | None = None

    def told(self, effects: NodeEffects, wish: AttributionWish, *, complete: bool) -> Attribution:
        """As a result; without edges until all of them are known."""
        assert effects.clean is not None
        weights = self.connections.weights() if self.connections else None
        nodes, edges = self._plain() if weights is None else self._connected(weights, wish)
        return replace(
            nothing_found(effects.prompt.host, wish),
            value=float(effects.clean.values[0]),
            probability=effects.prompt.probability(effects.clean.logits),
            nodes=nodes,
            edges=edges,
            check=check_of(nodes),
            totals=tuple(_totals(effects)),
            complete=complete,
        )

    def _plain(self) -> tuple[tuple[AttributedNode, ...], tuple[AttributionEdge, ...]]:
        every = [*self.top, *self.rest]
        told = [_node(node, self._effect(place)) for place, node in enumerate(every)]
        return (*told, *self._controls()), ()

    def _controls(self) -> Iterator[AttributedNode]:
        """Those that were taken out; they say nothing otherwise."""
        for place, node in enumerate(self.controls, start=len(self.top) + len(self.rest)):
            effect = self._effect(place)
            if effect is not None:
                yield _node(node, effect)

    def _connected(
        self, weights: Floats, wish: AttributionWish
    ) -> tuple[tuple[AttributedNode, ...], tuple[AttributionEdge, ...]]:
        """All features, the errors and embeddings that the pruned graph keeps, and its edges."""
        assert self.connections is not None
        graph = self.connections.pruned(
            weights, node_threshold=wish.node_threshold, edge_threshold=wish.edge_threshold
        )
        told: list[AttributedNode] = []
        place_of: dict[int, int] = {len(weights) - 1: -1}
        for place, node in enumerate([*self.top, *self.rest]):
            if graph.nodes[place]:
                place_of[place] = len(told)
            if graph.nodes[place] or node.kind is NodeKind.FEATURE:
                told.append(_node(node, self._effect(place), _influence(graph, place)))
        told += self._controls()
        targets, sources = np.nonzero(graph.edges)
        edges = tuple(
            AttributionEdge(place_of[source], place_of[target], float(weights[target, source]))
            for target, source in zip(targets.tolist(), sources.tolist(), strict=True)
        )
        return tuple(told), edges

    def _effect(self, place: int) -> float | None:
        """What was measured of the node at a place among all three kinds."""
        if len(self.top) <= place < len(self.top) + len(self.rest):
            return None
        tried = place if place < len(self.top) else place - len(self.rest)
        return self.ablations.effects.get(tried) if self.ablations else None


def nothing_found(host: HostModel, wish: AttributionWish) -> Attribution:
    """The result before the first slice."""
    texts = TokenTexts(host.tokenizer)
    return Attribution(
        model=host.name,
        num_layers=host.num_layers,
        token_ids=wish.prompt_ids,
        token_texts=tuple(texts.run(wish.prompt_ids)),
        metric=wish.metric,
        answer_texts=tuple("".join(texts.run(ids)) for ids in answers_of(wish.metric)),
    )


def _influence(graph: PrunedGraph, place: int) -> float | None:
    return float(graph.cumulative[place]) if graph.nodes[place] else None


def _node(node: ChosenNode, measured: float | None, influence: float | None = None) -> AttributedNode:
    return AttributedNode(
        kind=node.kind,
        role=node.role,
        hook_point=str(node.part.hook_point),
        position=node.part.position,
        activation=node.activation,
        attribution=node.attribution,
        sae=node.sae.name if node.sae else "",
        feature=node.feature,
        measured=measured,
        influence=influence,
        label=node.sae.label(node.feature) if node.sae and node.kind is NodeKind.FEATURE else None,
    )


def _totals(effects: NodeEffects) -> Iterator[SaeTotal]:
    for number in sorted(effects.done):
        predicted = effects.predicted[number]
        yield SaeTotal(
            sae=effects.explained[number].sae.name,
            num_active=len(predicted),
            features=float(predicted.sum()),
            errors=float(effects.error_effects(number).sum()),
        )
