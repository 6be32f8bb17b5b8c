"""Nodes of a prompt with the effects that each method predicts and the one that their ablation has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from steerd.host.host_model import HostModel
from steerd.steering.loaded_saes import LoadedSae
from steerd.studies.attribution.ablation import Part, ablation_effects
from steerd.studies.attribution.integrated_gradients import GroupedPaths
from steerd.studies.attribution.metric import TokenLogit
from steerd.studies.attribution.node_effects import NodeEffects
from steerd.studies.attribution.scored_prompt import ScoredPrompt
from steerd.studies.attribution.wish import Method

METHODS = {
    "direct": (Method.DIRECT, GroupedPaths(1, 1)),
    "gradient": (Method.GRADIENT, GroupedPaths(1, 1)),
    "integrated gradients, one group": (Method.INTEGRATED_GRADIENTS, GroupedPaths(1, 10)),
    "integrated gradients": (Method.INTEGRATED_GRADIENTS, GroupedPaths(8, 2)),
}
DEFAULT, SECOND = "integrated gradients", "gradient"
STRONGEST, RANDOM, INACTIVE = 20, 20, 10  # a prompt
COPIES = 8


@dataclass(frozen=True, slots=True)
class Node:
    """A feature at a position: its SAE's number, and its place among that SAE's active features."""

    sae: int
    place: int


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """One prompt: every method's predictions [nodes] and the measured effects [nodes] of the same nodes."""

    name: str
    token_ids: tuple[int, ...]
    metric: TokenLogit
    value: float
    effects: dict[str, NodeEffects]
    nodes: Sequence[Node]
    predicted: dict[str, list[float]]
    measured: list[float]
    inactive: list[float]

    @property
    def num_active(self) -> int:
        return sum(map(len, self.effects[DEFAULT].explained))

    def of_sae(self, sae: int) -> list[int]:
        """The numbers of the nodes of one SAE."""
        return [number for number, node in enumerate(self.nodes) if node.sae == sae]


def measure(host: HostModel, saes: Sequence[LoadedSae], name: str, ids: tuple[int, ...]) -> Measured:
    """All predictions of a prompt, and the effects of the chosen nodes."""
    metric = _two_likeliest(host, ids)
    prompt = ScoredPrompt(host, ids, metric)
    counted = torch.tensor([p > 0 and i not in host.special_token_ids for p, i in enumerate(ids)])
    effects = {}
    for label, (method, paths) in METHODS.items():
        effects[label] = NodeEffects(prompt, saes, counted, method, paths)
        for _ in effects[label].run(COPIES):
            pass
    nodes = choose(effects)
    explained = effects[DEFAULT].explained
    parts = [_part(effects[DEFAULT], node) for node in nodes]
    nothing = [
        Part(
            explained[number % len(saes)].sae.hook_point,
            int(counted.nonzero()[number % int(counted.sum())]),
            torch.zeros(host.d_model),
        )
        for number in range(INACTIVE)
    ]
    return Measured(
        name=name,
        token_ids=ids,
        metric=metric,
        value=float(prompt.values(1, {})[0]),
        effects=effects,
        nodes=nodes,
        predicted={
            label: [float(found.predicted[node.sae][node.place]) for node in nodes]
            for label, found in effects.items()
        },
        measured=_taken_out(prompt, parts),
        inactive=_taken_out(prompt, nothing),
    )


def choose(effects: dict[str, NodeEffects]) -> list[Node]:
    """The strongest by two methods, and random ones of all others."""
    every = [
        Node(sae, place)
        for sae, explained in enumerate(effects[DEFAULT].explained)
        for place in range(len(explained))
    ]
    chosen: dict[Node, None] = {}
    for label in (DEFAULT, SECOND):
        predicted = effects[label].predicted
        ranked = sorted(every, key=lambda node: -abs(float(predicted[node.sae][node.place])))
        chosen.update(dict.fromkeys(ranked[:STRONGEST]))
    generator = torch.Generator().manual_seed(0)
    others = [node for node in every if node not in chosen]
    drawn = torch.randperm(len(others), generator=generator)[:RANDOM].tolist()
    return [*chosen, *(others[number] for number in drawn)]


def _part(effects: NodeEffects, node: Node) -> Part:
    explained = effects.explained[node.sae]
    vector = explained.vectors(torch.tensor([node.place]))[0]
    return Part(explained.sae.hook_point, int(explained.positions[node.place]), vector)


def _taken_out(prompt: ScoredPrompt, parts: Sequence[Part]) -> list[float]:
    return [
        effect
        for start in range(0, len(parts), COPIES)
        for effect in ablation_effects(prompt, parts[start : start + COPIES])
    ]


def _two_likeliest(host: HostModel, ids: Sequence[int]) -> TokenLogit:
    with torch.no_grad():
        logits: Tensor = host.logits(torch.tensor([ids]), None)[0, -1]
    target, against = logits.topk(2).indices.tolist()
    return TokenLogit(target, against)
