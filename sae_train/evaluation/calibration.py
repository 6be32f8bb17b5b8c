"""The serving threshold of an SAE that was trained by choosing within batches.

It is a quantile of the pre-activations over all features and rows, found exactly and without keeping them:
positive float32 numbers are ordered as their bits are, so one pass counts them by their upper 16 bits and a
second, within the one bucket that holds the quantile, by the lower 16.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sae_train.evaluation.reconstruction import rows_at_once
from steerd.sae.activation_function import JumpReLU
from steerd.sae.autoencoder import SparseAutoencoder

Rows = Callable[[], Iterable[Tensor]]
"""Batches of activations [rows, d_model], the same each time."""

_SPAN = 512
_GOLDEN_RATIO = (5**0.5 - 1) / 2
_BITS = 16  # half of a float32's


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """A threshold, and the mean L0 of it and of such thresholds elsewhere; NaN where there are no rows."""

    threshold: float
    """Found on all rows."""
    rows_seen: int
    l0_seen: float
    """On the rows that it was found on."""
    rows_unseen: int
    l0_unseen: float
    """On the same rows, each half with the threshold found on the other half."""
    l0_unseen_worse_half: float
    """Of those two halves, the mean that is further from k: as far as other text may well lie."""


def calibrate(sae: SparseAutoencoder, rows: Rows, *, k: int) -> Calibration:
    """Find the threshold for a mean L0 of k on the rows, and check what one half's gives on the other half.

    The halves are made of spans of 512 rows, so they share no more than the documents that a span's edge
    cuts. Passes over the rows three times.
    """
    threshold, *of_halves = _thresholds(sae, rows, [(0, 1), (0,), (1,)], k=k)
    num_rows, seen, unseen = [0, 0], 0, [0, 0]  # the last is what is active above the other half's threshold
    for half, pre_acts in _pre_acts(sae, rows()):
        num_rows[half] += len(pre_acts)
        seen += int(torch.count_nonzero(pre_acts > threshold))
        unseen[half] += int(torch.count_nonzero(pre_acts > of_halves[1 - half]))
    rows_unseen = sum(num_rows) if all(num_rows) else 0
    l0_of_halves = [_mean(active, count) for active, count in zip(unseen, num_rows, strict=True)]
    return Calibration(
        threshold=threshold,
        rows_seen=sum(num_rows),
        l0_seen=_mean(seen, sum(num_rows)),
        rows_unseen=rows_unseen,
        l0_unseen=_mean(sum(unseen), rows_unseen),
        l0_unseen_worse_half=max(l0_of_halves, key=lambda l0: abs(l0 - k)) if rows_unseen else math.nan,
    )


def calibrate_threshold(sae: SparseAutoencoder, rows: Rows, *, k: int) -> float:
    """Return the threshold above which k features a row are active, on average over `rows()`.

    Exactly k, apart from ties. 0.0 when fewer are positive: then every positive one counts.
    """
    return _thresholds(sae, rows, [(0, 1)], k=k)[0]


def with_threshold(sae: SparseAutoencoder, threshold: float) -> SparseAutoencoder:
    """Return the same weights with one threshold for all features."""
    return dataclasses.replace(sae, activation=JumpReLU(torch.full_like(sae.b_enc, threshold)))


@dataclass(slots=True)
class _Search:
    """The search for the value that `rank` positive pre-activations of these halves of the rows exceed."""

    halves: tuple[int, ...]
    rank: int
    upper: Tensor  # [2**16], how many have these upper bits
    lower: Tensor = field(default_factory=lambda: torch.zeros(2**_BITS, dtype=torch.int64))

    @property
    def has_too_few(self) -> bool:
        return int(self.upper.sum()) <= self.rank

    def look_closer(self, bits: Tensor) -> None:
        """Count the lower bits of those in the bucket where the value is."""
        bucket, _ = _at_rank(self.upper, self.rank)
        self.lower += _counts(bits[(bits >> _BITS) == bucket] & (2**_BITS - 1))

    def value(self) -> float:
        bucket, above = _at_rank(self.upper, self.rank)
        low, _ = _at_rank(self.lower, self.rank - above)
        return float(torch.tensor(bucket << _BITS | low, dtype=torch.int32).view(torch.float32))


def _thresholds(
    sae: SparseAutoencoder, rows: Rows, parts: Sequence[tuple[int, ...]], *, k: int
) -> list[float]:
    """The threshold of each part, a part being one half of the rows or both."""
    upper = torch.zeros(2, 2**_BITS, dtype=torch.int64)
    num_rows = [0, 0]
    for half, pre_acts in _pre_acts(sae, rows()):
        bits = pre_acts.view(torch.int32)
        upper[half] += _counts((bits >> _BITS)[bits > 0])
        num_rows[half] += len(bits)
    searches = [
        _Search(halves, rank=k * sum(num_rows[half] for half in halves), upper=upper[list(halves)].sum(dim=0))
        for halves in parts
    ]
    promising = [search for search in searches if not search.has_too_few]
    for half, pre_acts in _pre_acts(sae, rows()) if promising else ():
        for search in promising:
            if half in search.halves:
                search.look_closer(pre_acts.view(torch.int32))
    return [0.0 if search.has_too_few else search.value() for search in searches]


def _pre_acts(sae: SparseAutoencoder, batches: Iterable[Tensor]) -> Iterator[tuple[int, Tensor]]:
    """Pre-activations [rows, d_sae] float32, each with the half of the rows, 0 or 1, that they belong to."""
    start = 0
    for batch in batches:
        half = _halves(torch.arange(start, start + len(batch), device=batch.device))
        start += len(batch)
        for number in (0, 1):
            for part in torch.split(batch[half == number], rows_at_once(sae)):
                x = part.to(sae.W_enc.device, sae.W_enc.dtype)
                yield number, (x @ sae.W_enc + sae.b_enc).float()


def _halves(places: Tensor) -> Tensor:
    """The half of each row [rows], 0 or 1, by the number of its span times the golden ratio.

    Nearly every other span, but of the spans of any period about as many fall into each half: text of several
    sources, read in turns, cannot be in step with it.
    """
    turns = (places // _SPAN).double() * _GOLDEN_RATIO
    return (turns.frac() >= 0.5).long()


def _counts(values: Tensor) -> Tensor:
    return torch.bincount(values, minlength=2**_BITS).cpu()


def _at_rank(counts: Tensor, rank: int) -> tuple[int, int]:
    """The bucket of the value that `rank` values exceed, and how many lie in buckets above that."""
    reached = counts.flip(0).cumsum(0)
    place = int((reached <= rank).sum())
    above = int(reached[place - 1]) if place else 0
    return len(counts) - 1 - place, above


def _mean(active: int, num_rows: int) -> float:
    return active / num_rows if num_rows else math.nan
