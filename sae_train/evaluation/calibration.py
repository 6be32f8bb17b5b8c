"""The serving threshold of an SAE that was trained by choosing within batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from steerd.sae.autoencoder import SparseAutoencoder


def calibrate_threshold(
    sae: SparseAutoencoder, rows: Callable[[], Iterable[Tensor]], *, k: int, guess: float
) -> float:
    """Return the threshold above which k features a row are active, on average over `rows()`.

    It is a quantile of all pre-activations, so the mean L0 on these rows is k exactly (ties aside).
    `rows()` yields batches [rows, d_model], the same each time; the search keeps what lies above half the
    `guess`.
    """
    for lowest in (guess / 2, 0.0):
        kept, num_rows = [], 0
        for batch in rows():
            pre_acts = batch.to(sae.W_enc.dtype) @ sae.W_enc + sae.b_enc
            kept.append(pre_acts[pre_acts > max(lowest, 0.0)])
            num_rows += len(batch)
        values = torch.cat(kept)
        if len(values) > k * num_rows:
            return float(torch.topk(values, k * num_rows + 1, sorted=False).values.min())
    return 0.0  # fewer than k positive pre-activations a row: every one of them counts
