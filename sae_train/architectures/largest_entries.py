"""The choice of a row's or a batch's largest pre-activations, exact, without sorting all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sae_train.architectures.pre_acts import at_least_float32, entries_of_blocks, indices_above
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


def largest_of_rows(block: Tensor, k: int) -> Tensor:
    """Return flat indices of each row's k largest entries, row after row: [rows * k].

    On a CPU in two stages. The k groups with the largest maxima hold the k largest entries: any entry outside
    is at most its group's maximum, and so at most each of the k maxima.
    """
    num_rows, d_sae = block.shape
    num_groups = d_sae // _group_size(d_sae, k)  # group g is the features g, g + num_groups, ...
    if block.device.type != "cpu" or num_groups == d_sae:
        return _flat(torch.topk(block, k, dim=1, sorted=False).indices, d_sae)
    entries = at_least_float32(block)
    groups = _places_of_largest(entries.view(num_rows, -1, num_groups).amax(dim=1), k)  # [rows, k]
    members = torch.arange(0, d_sae, num_groups).unsqueeze(1)  # [group, 1]
    candidates = (groups.unsqueeze(1) + members).view(num_rows, -1)
    places = _places_of_largest(entries.gather(1, candidates), k)
    return _flat(candidates.gather(1, places), d_sae)


def _places_of_largest(entries: Tensor, k: int) -> Tensor:
    """The columns of each row's k largest, in no order: [rows, k]."""
    num_rows, width = entries.shape
    smallest = np.partition(entries.numpy(), width - k, axis=1)[:, width - k : width - k + 1]
    found = np.flatnonzero(entries.numpy() >= smallest)
    if len(found) == num_rows * k:  # else there are equal ones
        return torch.from_numpy(found).view(num_rows, k) % width
    return torch.topk(entries, k, dim=1, sorted=False).indices


def largest_of_batch(
    blocks: Callable[[], Iterable[Tensor]], count: int, *, last_smallest: Tensor, ranks: Ranks
) -> Largest:
    """Return which of the batch's `count` largest positive entries are in this rank's rows.

    `blocks()` gives the rows' pre-activations, each [rows of it, d_sae]. The search begins a little below
    `last_smallest`, the smallest entry chosen from the last batch (0 when there was none). Of equal entries
    on the border, the first rows' are taken.
    """
    start = last_smallest * _MARGIN
    indices, values = entries_of_blocks(blocks(), lambda block: indices_above(block, start))
    if start > 0 and int(ranks.sum(torch.tensor(len(indices), device=indices.device))) < count:
        indices, values = entries_of_blocks(blocks(), lambda block: indices_above(block, 0.0))
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


def _flat(features: Tensor, d_sae: int) -> Tensor:
    """Flat indices of some features a row: [rows * features a row]."""
    first = torch.arange(0, len(features) * d_sae, d_sae, device=features.device)
    return (features + first.unsqueeze(1)).view(-1)


def _group_size(d_sae: int, k: int) -> int:
    """About the size at which both stages look at equally many entries: a power of 2 that divides d_sae."""
    best = 2 ** round(math.log2(max(1.0, d_sae / k)) / 2)
    return math.gcd(d_sae, best)
