"""The matryoshka batch-top-k SAE: the first features alone rebuild x as well as they can, then more of them.

Bussmann et al., arXiv 2503.17547. The choice is the batch-top-k SAE's. With w_1 < w_2 < ... < d_sae, the
reconstruction from the first w_i features and the loss are
    x_hat_i = feature_acts[:, :w_i] @ W_dec[:w_i] + b_dec
    loss = the mean over i of x_hat_i's mean squared error, + auxk_alpha * AuxK
Decoder rows have norm 1. Served as a batch-top-k SAE is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from sae_train.architectures.batch_topk import BatchTopKSae, BatchTopKSettings
from sae_train.architectures.entries import SparseEntries
from sae_train.architectures.sparse_code import decode


@dataclass(frozen=True, kw_only=True, slots=True)
class MatryoshkaSettings(BatchTopKSettings):
    """What a matryoshka batch-top-k SAE is trained with."""

    widths: tuple[int, ...]
    """Widths of the prefixes that rebuild x alone, ascending; the whole dictionary always does too."""
    encoder_norm: float = 0.1
    """Norm of W_enc's columns at the start: small, so that it is what the prefixes need that decides which
    features they hold, and not where the random directions point."""


class MatryoshkaSae(BatchTopKSae):
    """Parameters and loss of a matryoshka batch-top-k SAE."""

    def __init__(
        self,
        settings: MatryoshkaSettings,
        d_model: int,
        d_sae: int,
        *,
        b_dec: Tensor,
        generator: torch.Generator,
    ) -> None:
        super().__init__(settings, d_model, d_sae, b_dec=b_dec, generator=generator)
        self._edges = sorted({0, *settings.widths, d_sae})  # of the groups of features between the widths

    def _errors(self, acts: Tensor, entries: SparseEntries, x: Tensor) -> list[Tensor]:
        groups = torch.split(self.W_dec, [high - low for low, high in pairwise(self._edges)])
        parts = (
            decode(group_acts, W_dec, group_entries)
            for W_dec, (group_acts, group_entries) in zip(groups, self._grouped(acts, entries), strict=True)
        )
        return list(accumulate(parts, torch.sub, initial=x - self.b_dec))[1:]

    def _grouped(self, acts: Tensor, entries: SparseEntries) -> Iterator[tuple[Tensor, SparseEntries]]:
        """Each group's activations, and where they stand in a matrix of the group's features."""
        edges = torch.tensor(self._edges, device=acts.device)
        group = torch.bucketize(entries.features, edges, right=True) - 1  # [nnz]
        order = torch.argsort(group, stable=True)
        sizes = torch.bincount(group, minlength=len(edges) - 1).tolist()
        chosen = zip(torch.split(order, sizes), torch.split(acts.index_select(0, order), sizes), strict=True)
        for (low, high), (places, group_acts) in zip(pairwise(self._edges), chosen, strict=True):
            yield (
                group_acts,
                SparseEntries.from_coordinates(
                    entries.rows[places], entries.features[places] - low, (entries.shape[0], high - low)
                ),
            )
