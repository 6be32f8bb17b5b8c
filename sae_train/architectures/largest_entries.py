"""The choice of a row's or a batch's largest pre-activations, exact, without sorting all of them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sae_train.ranks import Ranks

# Entries above this share of the last batch's smallest chosen one are looked at first.
_MARGIN = 0.8


def largest_of_rows(pre_acts: Tensor, k: int) -> Tensor:
    """Return the features of each row's k largest entries, in no order: [rows, k].

    On a CPU in two stages. The k groups with the largest maxima hold the k largest entries: any entry outside
    is at most its group's maximum, and so at most each of the k maxima.
    """
    num_rows, d_sae = pre_acts.shape
    group = _group_size(d_sae, k) if pre_acts.device.type == "cpu" else 1
    if group == 1:
        return torch.topk(pre_acts, k, dim=1, sorted=False).indices
    num_groups = d_sae // group  # group g is the features g, g + num_groups, g + 2 * num_groups, ...
    maxima = pre_acts.view(num_rows, group, num_groups).amax(dim=1)  # [rows, num_groups]
    groups = torch.topk(maxima, k, dim=1, sorted=False).indices
    members = torch.arange(0, d_sae, num_groups).unsqueeze(1)  # [group, 1]
    candidates = (groups.unsqueeze(1) + members).view(num_rows, group * k)
    chosen = torch.topk(pre_acts.gather(1, candidates), k, dim=1, sorted=False).indices
    return candidates.gather(1, chosen)


def largest_of_batch(
    pre_acts: Tensor, count: int, *, last_smallest: Tensor, ranks: Ranks
) -> tuple[Tensor, Tensor]:
    """Return which of the batch's `count` largest positive entries are here: flat indices, ascending.

    pre_acts [rows, d_sae] are this rank's rows of the batch. The search begins below `last_smallest`, the
    smallest entry chosen from the last batch (0 when there was none); this batch's is returned beside the
    indices. Of equal entries on the border, the first rows' are taken.
    """
    flat = pre_acts.view(-1)
    candidates = (flat > last_smallest * _MARGIN).nonzero().squeeze(1)
    if int(ranks.sum(torch.tensor(len(candidates), device=flat.device))) < count:
        candidates = (flat > 0).nonzero().squeeze(1)
    values = flat[candidates].to(last_smallest.dtype)
    parts = ranks.gather(values)
    everyone = torch.cat(parts)
    if len(everyone) <= count:
        return candidates, everyone.min() if len(everyone) else torch.zeros_like(last_smallest)
    border = everyone.kthvalue(len(everyone) - count + 1).values
    before = torch.cat([everyone[:0], *parts[: ranks.rank]])
    allowed = count - (everyone > border).sum() - (before == border).sum()
    equal = values == border
    chosen = (values > border) | (equal & (equal.cumsum(0) <= allowed))
    return candidates[chosen], border


def _group_size(d_sae: int, k: int) -> int:
    """About the size at which both stages look at equally many entries: a power of 2 that divides d_sae."""
    best = 2 ** round(math.log2(max(1.0, d_sae / k)) / 2)
    return math.gcd(d_sae, best)
