"""The effects of one SAE's features by gradients averaged over paths on which they come up in groups."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product

import torch
from torch import Tensor

from steerd.studies.attribution.active_features import ActiveFeatures
from steerd.studies.attribution.gradients import row_gradients
from steerd.studies.attribution.scored_prompt import ScoredPrompt


@dataclass(frozen=True, slots=True, eq=False)
class PathEffects:
    """What each node is predicted to add to the metric, [nodes], and the mean gradient of all paths in the
    rows, [tokens, d_model]."""

    predicted: Tensor
    gradient: Tensor


@dataclass(frozen=True, slots=True)
class GroupedPaths:
    """Integrated gradients (Sundararajan et al., arXiv 1703.01365), baseline zero, midpoint rule.

    The features that are active in any row are dealt into groups, the largest first and in turn. On the path
    of a group its features go together from 0 to their activations, while those of the other groups and the
    errors stay as they are and all that follows is computed anew; `steps` points of it are looked at. A
    feature's effect is its activation times the mean gradient of its own group's path. The effects of a group
    add up to what the metric loses when the whole group is taken out.

    One group is what Marks et al. (arXiv 2403.19647) do at each hook point. Its path begins in a row without
    any features, as no host ever sees it. With more groups paths stay near the prompt as it is, and effects
    come near those of taking out a single feature.
    """

    groups: int
    steps: int

    @property
    def num_copies(self) -> int:
        """Copies of the prompt that are run for one SAE, forward and backward."""
        return self.groups * self.steps

    def run(
        self, prompt: ScoredPrompt, explained: ActiveFeatures, copies: int
    ) -> Iterator[PathEffects | None]:
        """Passes of at most so many copies each; the last one gives the effects, the others None."""
        predicted, total = torch.zeros_like(explained.acts), torch.zeros_like(explained.error)
        dealt = deal(explained, self.groups)
        looked_at = list(product(range(self.groups), ((i + 0.5) / self.steps for i in range(self.steps))))
        for start in range(0, len(looked_at), copies):
            part = looked_at[start : start + copies]
            missing = torch.stack([(1 - a) * _added(explained, dealt[group]) for group, a in part])
            for (group, _), gradient in zip(part, _gradients(prompt, explained, missing), strict=True):
                nodes = dealt[group]
                along = (explained.vectors(nodes) * gradient[explained.positions[nodes]]).sum(dim=1)
                predicted[nodes] += along / self.steps
                total += gradient / len(looked_at)
            yield PathEffects(predicted, total) if start + copies >= len(looked_at) else None


def deal(explained: ActiveFeatures, groups: int) -> list[Tensor]:
    """The numbers of each group's nodes; all are dealt in turn, by falling length of what they add."""
    lengths = explained.acts * explained.sae.sae.W_dec.norm(dim=1)[explained.features]
    order = lengths.argsort(descending=True, stable=True)
    return [order[group::groups] for group in range(groups)]


def _added(explained: ActiveFeatures, nodes: Tensor) -> Tensor:
    """What these nodes add to the rows, [tokens, d_model]."""
    return torch.zeros_like(explained.error).index_add(
        0, explained.positions[nodes], explained.vectors(nodes)
    )


def _gradients(prompt: ScoredPrompt, explained: ActiveFeatures, missing: Tensor) -> Tensor:
    """The gradient in the rows of each copy [copies, tokens, d_model] without what is missing there."""
    point = explained.sae.hook_point
    found = row_gradients(prompt, [point], copies=len(missing), edits={point: partial(_less, missing)})
    return found.gradients[point]


def _less(missing: Tensor, rows: Tensor) -> Tensor:
    return rows - missing.unsqueeze(1).to(rows.dtype)  # the same in all texts of a copy
