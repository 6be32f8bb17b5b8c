"""The choice of a batch's largest pre-activations, exact, without sorting all of them."""

from __future__ import annotations

import torch
from torch import Tensor

from sae_train.ranks import Ranks

# Entries above this share of the last batch's smallest chosen one are looked at first.
_MARGIN = 0.8


def largest_of_batch(
    pre_acts: Tensor, count: int, *, last_smallest: Tensor, ranks: Ranks
) -> tuple[Tensor, Tensor]:
    """Return flat indices (ascending) and values of the batch's `count` largest positive entries here.


    pre_acts [rows, d_sae] are this rank's rows of the batch. The search begins below `last_smallest`
    (a scalar), which is set to where it ended. Of equal values on the border, the first rows' are taken.
    """
    flat = pre_acts.view(-1)
    start = float(last_smallest) * _MARGIN
    candidates = (flat > start).nonzero().squeeze(1)
    if start > 0 and int(ranks.sum(torch.tensor(len(candidates), device=flat.device))) < count:
        candidates = (flat > 0).nonzero().squeeze(1)
    values = flat[candidates]
    parts = ranks.gather(values)
    everyone = torch.cat(parts)
    if len(everyone) > count:
        border = everyone.kthvalue(len(everyone) - count + 1).values
        before = torch.cat([everyone[:0], *parts[: ranks.rank]])
        allowed = count - (everyone > border).sum() - (before == border).sum()
        equal = values == border
        chosen = (values > border) | (equal & (equal.cumsum(0) <= allowed))
        candidates, values = candidates[chosen], values[chosen]
        last_smallest.copy_(border)
    else:
        last_smallest.copy_(everyone.min() if len(everyone) else everyone.new_zeros(()))
    return candidates, values
