"""How nodes of an attribution graph act on each other: what flows past all other features between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from steerd.host.hook_point import HookPoint
from steerd.studies.attribution.active_features import ActiveFeatures
from steerd.studies.attribution.gradients import row_gradients
from steerd.studies.attribution.scored_prompt import Edit, ScoredPrompt


@dataclass(frozen=True, slots=True)
class FeatureNode:
    """A feature at a position; `explained` is the number of its SAE in the list of the study."""

    explained: int
    feature: int
    position: int


Target = FeatureNode | None
"""The feature whose activation is felt, or None for the metric."""


def direct_gradients(
    prompt: ScoredPrompt,
    explained: Sequence[ActiveFeatures],
    hook_points: Sequence[HookPoint],
    targets: Sequence[Target],
) -> dict[HookPoint, Tensor]:
    """Each target's gradient in the rows that leave each hook point: [targets, tokens, d_model].

    At every SAE's hook point the rows are decode(z) + error. The gradient does not pass through the z of
    nodes there, and passes through the errors as they change with the rows: a path between two nodes that
    meets no other node counts as an edge between them. Summed over all paths in the graph of all active
    features these edges give each node's total effect, exactly. An activation's own gradient is that of its
    encoder where it is active (the threshold does not move). One forward and backward, a copy a target.
    """
    acts: dict[int, Tensor] = {}
    edits: dict[HookPoint, Edit] = {
        each.sae.hook_point: partial(_past_features, acts, number, each)
        for number, each in enumerate(explained)
    }

    def felt(logits: Tensor) -> Tensor:
        values = prompt.values_of(logits)
        return torch.stack([_value(target, copy, acts, values) for copy, target in enumerate(targets)])

    found = row_gradients(prompt, hook_points, copies=len(targets), edits=edits, of=felt)
    return dict(found.gradients)


def _value(target: Target, copy: int, acts: dict[int, Tensor], values: Tensor) -> Tensor:
    if target is None:
        return values[copy]
    # The same in every text of the copy, so that one of them is enough.
    return acts[target.explained][copy, 0, target.position, target.feature]


def _past_features(acts: dict[int, Tensor], number: int, explained: ActiveFeatures, rows: Tensor) -> Tensor:
    """The rows as they are, to the bit, whose gradient leaves out what passes through features with nodes."""
    sae = explained.sae.sae
    acts[number] = sae.encode(rows)  # [copies, texts, tokens, d_sae]
    reconstructed = (acts[number] * explained.counted.unsqueeze(1)) @ sae.W_dec
    return rows + (reconstructed.detach() - reconstructed)
