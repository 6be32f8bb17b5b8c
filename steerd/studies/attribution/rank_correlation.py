"""Spearman's rank correlation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Of two equally long sequences, from -1 to 1; equal values share the mean of their ranks.

    None when a sequence has no two different values.
    """
    ranks = [_ranks(np.asarray(values, dtype=np.float64)) for values in (one, other)]
    spread = [rank - (len(one) + 1) / 2 for rank in ranks]
    sizes = [float(np.linalg.norm(part)) for part in spread]
    return float(spread[0] @ spread[1]) / (sizes[0] * sizes[1]) if all(sizes) else None


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    mean_ranks: NDArray[np.float64] = (ends - (counts - 1) / 2)[place]
    return mean_ranks
