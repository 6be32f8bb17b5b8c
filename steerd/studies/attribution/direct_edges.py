"""How nodes of an attribution graph act on each other: what flows past all other features between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from steerd.host.hook_point import HookPoint
from steerd.studies.attribution.active_features import ActiveFeatures
from steerd.studies.attribution.gradients import recorded_forward
from steerd.studies.attribution.scored_prompt import Edit, ScoredPrompt


@dataclass(frozen=True, slots=True)
class FeatureNode:
    """A feature at a position; `explained` is the number of its SAE in the list of the study."""

    explained: int
    feature: int
    position: int


Target = FeatureNode | None
"""The feature whose activation is felt, or None for the metric."""


class DirectGradients:
    """One forward of a prompt, of which the gradients of many targets are taken.

    At every SAE's hook point the rows are decode(z) + error. A gradient does not pass through the z of
    nodes there, and passes through the errors as they change with the rows: a path between two nodes that
    meets no other node counts as an edge between them. Summed over all paths in the graph of all active
    features these edges give each node's total effect, exactly. An activation's own gradient is that of its
    encoder where it is active (the threshold does not move).
    """

    def __init__(
        self, prompt: ScoredPrompt, explained: Sequence[ActiveFeatures], hook_points: Sequence[HookPoint]
    ) -> None:
        """Run the forward; all it went through stays in memory as long as this does."""
        self._acts: dict[int, Tensor] = {}
        edits: dict[HookPoint, Edit] = {
            each.sae.hook_point: partial(_past_features, self._acts, number, each)
            for number, each in enumerate(explained)
        }
        self._forward = recorded_forward(prompt, hook_points, edits=edits)
        self._prompt = prompt

    @property
    def logits(self) -> Tensor:
        """Of the forward, [1, texts, scored, vocab]."""
        return self._forward.logits.detach()

    def of(self, target: Target) -> dict[HookPoint, Tensor]:
        """A target's gradient in the rows that leave each hook point: [tokens, d_model]. One backward."""
        gradients = self._forward.gradients_of(partial(self._felt, target), keep=True)
        return {point: gradient[0] for point, gradient in gradients.items()}

    def _felt(self, target: Target) -> Tensor:
        if target is None:
            return self._prompt.values_of(self._forward.logits)[0]
        # The same in every text, so that one of them is enough.
        return self._acts[target.explained][0, 0, target.position, target.feature]


def _past_features(acts: dict[int, Tensor], number: int, explained: ActiveFeatures, rows: Tensor) -> Tensor:
    """The rows as they are, to the bit, whose gradient leaves out what passes through features with nodes."""
    sae = explained.sae.sae
    acts[number] = sae.encode(rows)  # [copies, texts, tokens, d_sae]
    reconstructed = (acts[number] * explained.counted.unsqueeze(1)) @ sae.W_dec
    return rows + (reconstructed.detach() - reconstructed)
