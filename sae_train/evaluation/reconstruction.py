"""How well and how sparsely an SAE rebuilds held-out activations.

Rows that training left out (a sequence's first token, attention sinks) are left out here too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from sae_train.activations.held_out import HeldOutRows
from sae_train.evaluation.feature_density import (
    DENSITY_TOKENS,
    FeatureDensity,
    count_active,
    feature_density,
)
from sae_train.evaluation.row_moments import RowMoments
from steerd.sae.autoencoder import SparseAutoencoder

_ACTS_AT_ONCE = 2**24  # numbers: 64 MiB in float32


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecialToken:
    """How one special token's activations are rebuilt."""

    count: int
    mse: float
    l0: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconstruction:
    """Means over held-out tokens; NaN where no token was of the kind."""

    tokens: int
    special_tokens: int
    l0_mean: float
    l0_median: float
    l0_p95: float
    l0_special_tokens: float
    l0_other_tokens: float
    mse: float
    """Mean over tokens and dimensions of (x - x_hat)^2, in the host's units."""
    mse_special_tokens: float
    mse_other_tokens: float
    variance_explained: float
    """1 - sum ||x - x_hat||^2 / sum ||x - mean x||^2, the sums and the mean over all tokens."""
    variance_explained_legacy: float
    """Mean over tokens of 1 - ||x - x_hat||^2 / ||x - mean x||^2."""
    cosine: float
    relative_norm: float
    """Mean of ||x_hat|| / ||x||."""
    relative_reconstruction_bias: float
    """Mean ||x_hat||^2 / mean x . x_hat; below 1 is shrinkage (arXiv 2404.16014, equation 10)."""
    special_tokens_by_id: dict[int, SpecialToken]
    density: FeatureDensity


def reconstruction(
    sae: SparseAutoencoder, batches: Iterable[HeldOutRows], moments: RowMoments
) -> Reconstruction:
    """Measure the SAE over the rows that gave the moments; independent of how they are cut into batches."""
    rows, active = _measure(sae, batches, moments.mean)
    is_special, count = rows.special, len(rows.error)
    mse = rows.error / sae.d_model
    return Reconstruction(
        tokens=count,
        special_tokens=int(is_special.sum()),
        l0_mean=_mean(rows.l0),
        l0_median=float(rows.l0.quantile(0.5)),
        l0_p95=float(rows.l0.quantile(0.95)),
        l0_special_tokens=_mean(rows.l0[is_special]),
        l0_other_tokens=_mean(rows.l0[~is_special]),
        mse=_mean(mse),
        mse_special_tokens=_mean(mse[is_special]),
        mse_other_tokens=_mean(mse[~is_special]),
        variance_explained=1 - _ratio(_mean(rows.error), moments.variance),
        variance_explained_legacy=_mean(1 - rows.error / rows.from_mean),
        cosine=_mean(rows.cosine),
        relative_norm=_mean(rows.relative_norm),
        relative_reconstruction_bias=_ratio(_mean(rows.x_hat_square), _mean(rows.x_dot_x_hat)),
        special_tokens_by_id=_by_id(rows.token_ids[is_special], mse[is_special], rows.l0[is_special]),
        density=feature_density(active, min(count, DENSITY_TOKENS)),
    )


def rows_at_once(sae: SparseAutoencoder) -> int:
    """How many rows to encode at a time, so that their activations stay small for any width."""
    return max(1, _ACTS_AT_ONCE // sae.d_sae)


class _MeasuredRows(NamedTuple):
    """One number a row, all [rows] on the CPU; sums over dimensions in float64."""

    error: Tensor  # ||x - x_hat||^2
    from_mean: Tensor  # ||x - mean x||^2
    l0: Tensor
    cosine: Tensor
    relative_norm: Tensor
    x_hat_square: Tensor
    x_dot_x_hat: Tensor
    token_ids: Tensor
    special: Tensor


def _measure(
    sae: SparseAutoencoder, batches: Iterable[HeldOutRows], mean: Tensor
) -> tuple[_MeasuredRows, Tensor]:
    measured, seen = [], 0
    active = torch.zeros(sae.d_sae, dtype=torch.int64)
    for batch in _parts(batches, rows_at_once(sae)):
        x = batch.resid.to(sae.W_enc.device)
        feature_acts = sae.encode(x)
        active += count_active(feature_acts, before=DENSITY_TOKENS - seen)
        measured.append(_measured_rows(batch, x, feature_acts, sae.decode(feature_acts), mean.to(x.device)))
        seen += len(x)
    return _MeasuredRows(*(torch.cat(column) for column in zip(*measured, strict=True))), active


def _measured_rows(
    batch: HeldOutRows, x: Tensor, feature_acts: Tensor, x_hat: Tensor, mean: Tensor
) -> _MeasuredRows:
    l0 = torch.count_nonzero(feature_acts, dim=1).double()
    x, x_hat = x.double(), x_hat.double()
    return _MeasuredRows(
        error=(x - x_hat).square().sum(dim=1).cpu(),
        from_mean=(x - mean).square().sum(dim=1).cpu(),
        l0=l0.cpu(),
        cosine=functional.cosine_similarity(x, x_hat, dim=1).cpu(),
        relative_norm=(x_hat.norm(dim=1) / x.norm(dim=1)).cpu(),
        x_hat_square=x_hat.square().sum(dim=1).cpu(),
        x_dot_x_hat=(x * x_hat).sum(dim=1).cpu(),
        token_ids=batch.token_ids,
        special=batch.special,
    )


def _parts(batches: Iterable[HeldOutRows], rows: int) -> Iterator[HeldOutRows]:
    for batch in batches:
        for start in range(0, len(batch.resid), rows):
            part = slice(start, start + rows)
            yield HeldOutRows(
                resid=batch.resid[part], token_ids=batch.token_ids[part], special=batch.special[part]
            )


def _by_id(token_ids: Tensor, mse: Tensor, l0: Tensor) -> dict[int, SpecialToken]:
    return {
        token_id: SpecialToken(
            count=int((token_ids == token_id).sum()),
            mse=_mean(mse[token_ids == token_id]),
            l0=_mean(l0[token_ids == token_id]),
        )
        for token_id in torch.unique(token_ids).tolist()
    }


def _mean(values: Tensor) -> float:
    return float(values.mean())  # NaN of none


def _ratio(value: float, by: float) -> float:
    return value / by if by else math.nan
