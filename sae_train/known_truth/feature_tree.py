"""A hierarchy of features: a child fires only with its parent, and at most one child of a parent fires.

Features are numbered level by level, the roots first, so the children of a level's features follow one
another: family f of a level has the children `first_child + f * branching` and on.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class TreeLevel:
    """The families whose parents share a depth."""

    first_parent: int
    first_child: int
    num_families: int
    branching: int
    """Children of each."""

    @property
    def parents(self) -> slice:
        """The features that have children."""
        return slice(self.first_parent, self.first_parent + self.num_families)

    @property
    def children(self) -> slice:
        """The features that are children."""
        return slice(self.first_child, self.first_child + self.num_families * self.branching)

    def holds(self, features: Tensor) -> Tensor:
        """Return the indices of those features that are children of this level."""
        end = self.first_child + self.num_families * self.branching
        return ((features >= self.first_child) & (features < end)).nonzero().squeeze(1)

    def by_family(self, values: Tensor) -> Tensor:
        """View the children's part of values [n, num_features] as [n, num_families, branching]."""
        children: Tensor = values[:, self.children]
        return children.view(-1, self.num_families, self.branching)


def tree_levels(num_features: int, *, roots: int, branching: int, depth: int) -> list[TreeLevel]:
    """Return the levels of `roots` trees, filled breadth first while the features suffice for whole families.

    The features that are left over belong to no tree.
    """
    levels = []
    first_parent, num_parents = 0, min(roots, num_features)
    for _ in range(depth):
        first_child = first_parent + num_parents
        families = min(num_parents, (num_features - first_child) // branching)
        if families == 0:
            break
        levels.append(TreeLevel(first_parent, first_child, families, branching))
        first_parent, num_parents = first_child, families * branching
    return levels


def compensated(probabilities: Tensor, levels: list[TreeLevel]) -> Tensor:
    """Return the probabilities to draw with, so that after `prune` features fire about as often as given.

    A child needs its parent (divide by the parent's probability) and competes with its siblings (times one
    plus the number of siblings expected beside it). What would exceed 1 is 1: such a child fires less.
    """
    drawn = probabilities.clone()
    for level in levels:
        parents = probabilities[level.parents].unsqueeze(1)
        children = level.by_family(probabilities.unsqueeze(0))[0]
        beside = (children.sum(dim=1, keepdim=True) - children) / parents
        drawn[level.children] = (children / parents * (1 + beside)).flatten()
    return drawn.clamp(max=1.0)


def prune(fires: Tensor, levels: list[TreeLevel], generator: torch.Generator) -> None:
    """Keep, in place, of every firing parent's firing children one at random, and of other children none.

    fires [rows, num_features] bool.
    """
    for level in levels:
        children = level.by_family(fires)  # [rows, families, branching]
        children &= fires[:, level.parents].unsqueeze(2)
        row, family, child = children.nonzero(as_tuple=True)
        group = row * level.num_families + family
        tickets = torch.randperm(len(group), generator=generator, device=group.device)  # no two alike
        best = torch.full((len(fires) * level.num_families,), -1, dtype=torch.long, device=group.device)
        best.scatter_reduce_(0, group, tickets, "amax")
        children[row, family, child] = tickets == best[group]


def scale_by_parents(
    feature_acts: Tensor, fired: tuple[Tensor, Tensor], levels: list[TreeLevel], mean_magnitudes: Tensor
) -> None:
    """Multiply, in place, each child's activation by its parent's over the parent's mean magnitude.

    feature_acts [rows, num_features]; `fired`: row and feature of its entries, each [num_fired];
    mean_magnitudes [num_features].
    """
    rows, features = fired
    for level in levels:
        here = level.holds(features)
        row, child = rows[here], features[here]
        parent = level.first_parent + (child - level.first_child) // level.branching
        feature_acts[row, child] *= feature_acts[row, parent] / mean_magnitudes[parent]
