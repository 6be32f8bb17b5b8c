"""Which nodes of an attribution are looked at more closely: the strongest, and controls drawn at random."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from steerd.steering.loaded_saes import LoadedSae
from steerd.studies.attribution.ablation import Part
from steerd.studies.attribution.node_effects import EMBEDDING, NodeEffects
from steerd.studies.attribution.result import NodeKind, NodeRole

_TRIES = 100  # for an inactive feature: most of an SAE's are


@dataclass(frozen=True, slots=True, eq=False)
class ChosenNode:
    """A node with what it adds to its row, `part`; `explained` is the number of its `sae`, -1 of none."""

    kind: NodeKind
    role: NodeRole
    explained: int
    sae: LoadedSae | None
    feature: int
    part: Part
    activation: float
    attribution: float


def strongest_features(effects: NodeEffects, count: int) -> list[ChosenNode]:
    """The features with the largest attributions, largest first."""
    return _strongest([n for number in effects.predicted for n in _features(effects, number, count)], count)


def strongest_rest(effects: NodeEffects, count: int) -> list[ChosenNode]:
    """As many errors and as many embeddings, likewise."""
    errors = [node for number in effects.predicted for node in _errors(effects, number)]
    return _strongest(errors, count) + _strongest(_embeddings(effects), count)


def random_active(
    effects: NodeEffects, taken: Sequence[ChosenNode], count: int, generator: torch.Generator
) -> list[ChosenNode]:
    """Features drawn from all that are active and not `taken`, each as likely as any other."""
    ours = {(node.explained, node.part.position, node.feature) for node in taken}
    sizes = [len(predicted) for predicted in effects.predicted.values()]
    order = torch.randperm(sum(sizes), generator=generator).tolist()
    found: list[ChosenNode] = []
    for drawn in order:
        if len(found) == count:
            break
        number, place = _place(list(effects.predicted), sizes, drawn)
        node = _feature(effects, number, place, NodeRole.RANDOM_ACTIVE)
        if (node.explained, node.part.position, node.feature) not in ours:
            found.append(node)
    return found


def random_inactive(effects: NodeEffects, count: int, generator: torch.Generator) -> list[ChosenNode]:
    """Features drawn where they are not active: they add nothing, and without them nothing must change."""
    rows = effects.counted.nonzero().flatten()
    drawn: set[tuple[int, int, int]] = set()
    for _ in range(_TRIES * count if len(rows) else 0):
        if len(drawn) == count:
            break
        number = _draw(len(effects.explained), generator)
        explained = effects.explained[number]
        position = int(rows[_draw(len(rows), generator)])
        feature = _draw(explained.sae.sae.d_sae, generator)
        if not bool(((explained.positions == position) & (explained.features == feature)).any()):
            drawn.add((number, position, feature))
    return [_inactive(effects, *node) for node in sorted(drawn)]


def _inactive(effects: NodeEffects, number: int, position: int, feature: int) -> ChosenNode:
    explained = effects.explained[number]
    part = Part(explained.sae.hook_point, position, torch.zeros_like(explained.error[position]))
    role, sae = NodeRole.RANDOM_INACTIVE, explained.sae
    return ChosenNode(NodeKind.FEATURE, role, number, sae, feature, part, activation=0.0, attribution=0.0)


def _strongest(nodes: Sequence[ChosenNode], count: int) -> list[ChosenNode]:
    return sorted(nodes, key=lambda node: -abs(node.attribution))[:count]


def _features(effects: NodeEffects, number: int, count: int) -> list[ChosenNode]:
    predicted = effects.predicted[number]
    top = predicted.abs().topk(min(count, len(predicted))).indices
    return [_feature(effects, number, place, NodeRole.TOP) for place in top.tolist()]


def _feature(effects: NodeEffects, number: int, place: int, role: NodeRole) -> ChosenNode:
    explained = effects.explained[number]
    position = int(explained.positions[place])
    vector = explained.vectors(torch.tensor([place], device=explained.acts.device))[0]
    return ChosenNode(
        kind=NodeKind.FEATURE,
        role=role,
        explained=number,
        sae=explained.sae,
        feature=int(explained.features[place]),
        part=Part(explained.sae.hook_point, position, vector),
        activation=float(explained.acts[place]),
        attribution=float(effects.predicted[number][place]),
    )


def _errors(effects: NodeEffects, number: int) -> list[ChosenNode]:
    explained, gradient = effects.explained[number], effects.gradients[number]
    return [
        _whole(
            NodeKind.ERROR,
            Part(explained.sae.hook_point, position, vector),
            gradient,
            number,
            explained.sae,
        )
        for position, vector in _counted(effects, explained.error)
    ]


def _embeddings(effects: NodeEffects) -> list[ChosenNode]:
    assert effects.clean is not None
    gradient = effects.embedding_gradient()
    return [
        _whole(NodeKind.EMBEDDING, Part(EMBEDDING, position, vector), gradient)
        for position, vector in _counted(effects, effects.clean.rows[EMBEDDING])
    ]


def _counted(effects: NodeEffects, rows: Tensor) -> Iterator[tuple[int, Tensor]]:
    """The rows that have nodes, with their positions."""
    for position in effects.counted.nonzero().flatten().tolist():
        yield position, rows[position]


def _whole(
    kind: NodeKind, part: Part, gradient: Tensor, number: int = -1, sae: LoadedSae | None = None
) -> ChosenNode:
    """A node that is one vector of its row."""
    return ChosenNode(
        kind=kind,
        role=NodeRole.TOP,
        explained=number,
        sae=sae,
        feature=-1,
        part=part,
        activation=float(part.vector.norm()),
        attribution=float(part.vector @ gradient[part.position]),
    )


def _place(numbers: Sequence[int], sizes: Sequence[int], drawn: int) -> tuple[int, int]:
    """Which SAE, and which of its active features, the drawn one of all is."""
    for number, size in zip(numbers, sizes, strict=True):
        if drawn < size:
            return number, drawn
        drawn -= size
    raise AssertionError("drawn beyond the last")


def _draw(bound: int, generator: torch.Generator) -> int:
    return int(torch.randint(bound, (1,), generator=generator))
