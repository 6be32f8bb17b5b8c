"""The serving threshold of an SAE that was trained by choosing within batches.

It is a quantile of the pre-activations over all features and rows, found exactly and without keeping them:
positive float32 numbers are ordered as their bits are, so one pass counts them by their upper 16 bits and a
second, within the one bucket that holds the quantile, by the lower 16.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sae_train.evaluation.reconstruction import rows_at_once
from steerd.sae.activation_function import JumpReLU
from steerd.sae.autoencoder import SparseAutoencoder

Rows = Callable[[], Iterable[Tensor]]
"""Batches of activations [rows, d_model], the same each time."""

_SPAN = 512
_HALF = 16  # of a float32's bits


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """A threshold and the mean L0 it gives where it was found and elsewhere; NaN where there are no rows."""

    threshold: float
    rows_seen: int
    l0_seen: float
    rows_unseen: int
    l0_unseen: float


def calibrate(sae: SparseAutoencoder, rows: Rows, *, k: int) -> Calibration:
    """Find the threshold for a mean L0 of k on half of the rows, every other span of 512, and check it.

    The other half shares no more than the documents that a span's edge cuts.
    """
    threshold = calibrate_threshold(sae, lambda: _every_other_span(rows, 0), k=k)
    served = with_threshold(sae, threshold)
    rows_seen, l0_seen = _mean_l0(served, _every_other_span(rows, 0))
    rows_unseen, l0_unseen = _mean_l0(served, _every_other_span(rows, 1))
    return Calibration(
        threshold=threshold,
        rows_seen=rows_seen,
        l0_seen=l0_seen,
        rows_unseen=rows_unseen,
        l0_unseen=l0_unseen,
    )


def calibrate_threshold(sae: SparseAutoencoder, rows: Rows, *, k: int) -> float:
    """Return the threshold above which k features a row are active, on average over `rows()`.

    Exactly k, apart from ties. 0.0 when fewer are positive: then every positive one counts.
    """
    upper = torch.zeros(2**_HALF, dtype=torch.int64)
    num_rows = 0
    for bits in _pre_act_bits(sae, rows()):
        upper += _counts((bits >> _HALF)[bits > 0])
        num_rows += len(bits)
    rank = k * num_rows  # as many pre-activations lie above the threshold
    if int(upper.sum()) <= rank:
        return 0.0
    bucket, above = _at_rank(upper, rank)
    lower = torch.zeros(2**_HALF, dtype=torch.int64)
    for bits in _pre_act_bits(sae, rows()):
        lower += _counts(bits[(bits >> _HALF) == bucket] & (2**_HALF - 1))
    low, _ = _at_rank(lower, rank - above)
    return float(torch.tensor(bucket << _HALF | low, dtype=torch.int32).view(torch.float32))


def with_threshold(sae: SparseAutoencoder, threshold: float) -> SparseAutoencoder:
    """Return the same weights with one threshold for all features."""
    return dataclasses.replace(sae, activation=JumpReLU(torch.full_like(sae.b_enc, threshold)))


def _pre_act_bits(sae: SparseAutoencoder, batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """The pre-activations [rows, d_sae] as int32, negative where they are."""
    for batch in batches:
        for part in torch.split(batch, rows_at_once(sae)):
            x = part.to(sae.W_enc.device, sae.W_enc.dtype)
            yield (x @ sae.W_enc + sae.b_enc).float().view(torch.int32)


def _counts(values: Tensor) -> Tensor:
    return torch.bincount(values, minlength=2**_HALF).cpu()


def _at_rank(counts: Tensor, rank: int) -> tuple[int, int]:
    """The bucket of the value that `rank` values exceed, and how many lie in buckets above that."""
    reached = counts.flip(0).cumsum(0)
    place = int((reached <= rank).sum())
    above = int(reached[place - 1]) if place else 0
    return len(counts) - 1 - place, above


def _every_other_span(rows: Rows, parity: int) -> Iterator[Tensor]:
    start = 0
    for batch in rows():
        places = torch.arange(start, start + len(batch), device=batch.device)
        start += len(batch)
        yield batch[(places // _SPAN) % 2 == parity]


def _mean_l0(sae: SparseAutoencoder, batches: Iterable[Tensor]) -> tuple[int, float]:
    num_rows = active = 0
    for batch in batches:
        for part in torch.split(batch, rows_at_once(sae)):
            active += int(torch.count_nonzero(sae.encode(part.to(sae.W_enc.device))))
            num_rows += len(part)
    return num_rows, active / num_rows if num_rows else math.nan
