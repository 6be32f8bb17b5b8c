"""Directions of features among each other, and against those of a second seed.

Cosines are signed: a feature never fires negatively, so the opposite direction is another feature.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sae_train.evaluation.matching import best_matching

_COSINES_AT_ONCE = 2**25  # numbers: 128 MiB in float32
_WIDEST_MATCHING = 16_384  # the matching of so many takes 2 GiB and a quarter of an hour
_SAME = 0.7
_BIN_EDGES = np.linspace(0.0, 1.0, 21)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderNeighbours:
    """Each feature's largest cosine with another's decoder row; many near 1 tell of split features."""

    mean: float
    p50: float
    p99: float
    bin_edges: tuple[float, ...]
    counts: tuple[int, ...]
    """Features in each bin of that cosine; the lowest bin takes negative ones too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureMatch:
    """How far two SAEs, such as two seeds of one recipe, found the same features (arXiv 2501.16615)."""

    features_a: int
    features_b: int
    mcc: float | None
    """Mean cosine over the one-to-one matching of decoder rows that makes it largest; None when either SAE
    has more than 16,384 features, for which it is not worked out."""
    matched_share: float | None
    """Share of that matching's pairs with a cosine above 0.7."""
    nearest_mean_a: float
    """Mean over A's features of the largest cosine with any of B's."""
    nearest_mean_b: float
    nearest_share_a: float
    """Share of A's features that have one of B's at a cosine above 0.7."""
    nearest_share_b: float


def decoder_neighbours(W_dec: Tensor) -> DecoderNeighbours:
    """Measure decoder rows [d_sae, d_model] against each other, a bounded part of the cosines at a time."""
    unit = _unit(W_dec)
    nearest = _largest_cosines(unit, unit, skip_same_row=True).double()
    if not len(nearest):  # one feature alone
        nearest = torch.tensor([math.nan])
    counts = np.histogram(nearest.clamp(_BIN_EDGES[0], _BIN_EDGES[-1]).numpy(), _BIN_EDGES)[0]
    return DecoderNeighbours(
        mean=float(nearest.mean()),
        p50=float(nearest.quantile(0.5)),
        p99=float(nearest.quantile(0.99)),
        bin_edges=tuple(_BIN_EDGES.round(2).tolist()),
        counts=tuple(counts.tolist()),
    )


def match_features(W_dec_a: Tensor, W_dec_b: Tensor) -> FeatureMatch:
    """Compare decoder rows [features, d_model] of two SAEs of one hook point."""
    a, b = _unit(W_dec_a), _unit(W_dec_b)
    nearest_a, nearest_b = _largest_cosines(a, b), _largest_cosines(b, a)
    matched = best_matching(a @ b.t()) if max(len(a), len(b)) <= _WIDEST_MATCHING else None
    return FeatureMatch(
        features_a=len(a),
        features_b=len(b),
        mcc=None if matched is None else float(matched.mean()),
        matched_share=None if matched is None else _share(matched),
        nearest_mean_a=float(nearest_a.mean()),
        nearest_mean_b=float(nearest_b.mean()),
        nearest_share_a=_share(nearest_a),
        nearest_share_b=_share(nearest_b),
    )


def _unit(rows: Tensor) -> Tensor:
    norms: Tensor = rows.norm(dim=1, keepdim=True)
    return rows / norms.masked_fill(norms == 0, 1.0)  # a row of zeros has a cosine of 0 with all


def _largest_cosines(rows: Tensor, others: Tensor, *, skip_same_row: bool = False) -> Tensor:
    """Each row's largest cosine with one of the others, [rows] on the CPU; empty where there is no other."""
    if len(others) <= int(skip_same_row):
        return torch.zeros(0)
    largest = []
    at_once = max(1, _COSINES_AT_ONCE // len(others))
    for start in range(0, len(rows), at_once):
        cosines = rows[start : start + at_once] @ others.t()
        if skip_same_row:
            cosines.diagonal(start).fill_(-math.inf)
        largest.append(cosines.max(dim=1).values)
    return torch.cat(largest).cpu()


def _share(cosines: Tensor) -> float:
    return float((cosines > _SAME).double().mean())
