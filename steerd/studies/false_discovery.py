"""Many tests at once: how small a p-value has to be when thousands are looked at."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def q_values(p_values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The q-value of each test, [tests]: picking those with q <= x keeps the expected share of false picks
    at or below x (Benjamini and Hochberg 1995)."""
    order = np.argsort(p_values)
    ranks = np.arange(1, len(p_values) + 1)
    scaled = p_values[order] * len(p_values) / ranks
    corrected = np.empty_like(p_values)
    corrected[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return corrected
