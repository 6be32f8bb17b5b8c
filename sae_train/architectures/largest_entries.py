"""The choice of a row's or a batch's largest pre-activations, exact, without sorting all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from sae_train.architectures.pre_acts import entries_of_blocks
from sae_train.ranks import Ranks

# Entries above this share of the last batch's smallest chosen one are looked at first.
_MARGIN = 0.8


class Largest(NamedTuple):
    """What was chosen from this rank's rows."""

    indices: Tensor
    """[nnz] into the flattened rows, ascending."""
    values: Tensor
    """[nnz] in float32."""
    smallest: Tensor
    """Scalar: the smallest entry chosen from the whole batch, 0 when none was."""


def largest_of_rows(pre_acts: Tensor, k: int) -> Tensor:
    """Return flat indices of each row's k largest entries, row after row: [rows * k].

    On a CPU in two stages. The k groups with the largest maxima hold the k largest entries: any entry outside
    is at most its group's maximum, and so at most each of the k maxima.
    """
    num_rows, d_sae = pre_acts.shape
    group = _group_size(d_sae, k) if pre_acts.device.type == "cpu" else 1
    if group == 1:
        return _flat(torch.topk(pre_acts, k, dim=1, sorted=False).indices, d_sae)
    num_groups = d_sae // group  # group g is the features g, g + num_groups, g + 2 * num_groups, ...
    maxima = pre_acts.view(num_rows, group, num_groups).amax(dim=1)  # [rows, num_groups]
    groups = torch.topk(maxima, k, dim=1, sorted=False).indices
    members = torch.arange(0, d_sae, num_groups).unsqueeze(1)  # [group, 1]
    candidates = (groups.unsqueeze(1) + members).view(num_rows, group * k)
    chosen = torch.topk(pre_acts.gather(1, candidates), k, dim=1, sorted=False).indices
    return _flat(candidates.gather(1, chosen), d_sae)


def largest_of_batch(
    blocks: Callable[[], Iterable[Tensor]], count: int, *, last_smallest: Tensor, ranks: Ranks
) -> Largest:
    """Return which of the batch's `count` largest positive entries are in this rank's rows.

    `blocks()` gives the rows' pre-activations, each [rows of it, d_sae]. The search begins a little below
    `last_smallest`, the smallest entry chosen from the last batch (0 when there was none). Of equal entries
    on the border, the first rows' are taken.
    """
    start = last_smallest * _MARGIN
    indices, values = entries_of_blocks(blocks(), lambda block: _above(block, start))
    if start > 0 and int(ranks.sum(torch.tensor(len(indices), device=indices.device))) < count:
        indices, values = entries_of_blocks(blocks(), lambda block: _above(block, 0.0))
    parts = ranks.gather(values)
    everyone = torch.cat(parts)
    if len(everyone) <= count:
        return Largest(indices, values, everyone.min() if len(everyone) else torch.zeros_like(last_smallest))
    border = everyone.kthvalue(len(everyone) - count + 1).values
    before = torch.cat([everyone[:0], *parts[: ranks.rank]])
    allowed = count - (everyone > border).sum() - (before == border).sum()
    equal = values == border
    chosen = (values > border) | (equal & (equal.cumsum(0) <= allowed))
    return Largest(indices[chosen], values[chosen], border)


def _above(block: Tensor, bound: Tensor | float) -> Tensor:
    return (block.view(-1) > bound).nonzero().squeeze(1)


def _flat(features: Tensor, d_sae: int) -> Tensor:
    """Flat indices of some features a row: [rows * features a row]."""
    first = torch.arange(0, len(features) * d_sae, d_sae, device=features.device)
    return (features + first.unsqueeze(1)).view(-1)


def _group_size(d_sae: int, k: int) -> int:
    """About the size at which both stages look at equally many entries: a power of 2 that divides d_sae."""
    best = 2 ** round(math.log2(max(1.0, d_sae / k)) / 2)
    return math.gcd(d_sae, best)
