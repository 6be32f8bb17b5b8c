"""What is measured once on a sample of activations before training: scale, typical norm, centre."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from steerd.errors import SteerdError


class ActivationError(SteerdError):
    """Activations that no SAE can be trained on."""

    reason = "ACTIVATION_ERROR"


@dataclass(frozen=True, slots=True)
class ActivationScale:
    """How long the host's activations are.

    `scale` * activations have a mean squared norm of d_model; rows longer than `outlier_limit` are attention
    sinks and the like, and count neither here nor in training.
    """

    median_norm: float
    outlier_limit: float
    scale: float

    def is_inlier(self, resid: Tensor) -> Tensor:
        """Mark the rows [rows] of activations [rows, d_model] that are no outliers."""
        return row_norms(resid) <= self.outlier_limit


def row_norms(resid: Tensor) -> Tensor:
    """Return the lengths [...] of rows [..., d_model], in float32 whatever the rows' dtype."""
    norms: Tensor = torch.linalg.vector_norm(resid, dim=-1, dtype=torch.float32)
    return norms


def estimate_scale(sample: Tensor, *, outlier_norm: float) -> ActivationScale:
    """Measure a sample [rows, d_model]; `outlier_norm` is a multiple of the median norm."""
    norms = row_norms(sample)
    if not bool(torch.isfinite(norms).all()):
        raise ActivationError("the host's activations are not finite; harvest with a wider dtype")
    median = float(norms.median())
    limit = median * outlier_norm
    mean_square = float(norms[norms <= limit].double().square().mean())
    if mean_square == 0:
        raise ActivationError("the host's activations are all zero")
    return ActivationScale(
        median_norm=median, outlier_limit=limit, scale=(sample.shape[1] / mean_square) ** 0.5
    )


def geometric_median(rows: Tensor, *, iterations: int = 100, tolerance: float = 1e-6) -> Tensor:
    """Return the point [d_model] with the least sum of distances to the rows (Weiszfeld's iteration)."""
    point: Tensor = rows.mean(dim=0)
    # A row that is the point itself has no direction to pull in.
    epsilon = 1e-6 * float(rows.norm(dim=1).mean())
    for _ in range(iterations):
        weights = 1.0 / (rows - point).norm(dim=1).clamp(min=epsilon)
        moved: Tensor = (rows * weights.unsqueeze(1)).sum(dim=0) / weights.sum()
        if float((moved - point).norm()) <= tolerance * float(moved.norm()):
            return moved
        point = moved
    return point
