"""How sure a figure is that was computed of things drawn by chance: percentile intervals by the bootstrap."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

T = TypeVar("T")

_OUTSIDE = (2.5, 97.5)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure, and between which bounds 95 in 100 resamplings found it."""

    value: float
    low: float
    high: float


def estimates(
    things: Sequence[T],
    figures: Callable[[Sequence[T]], Mapping[str, float]],
    *,
    resamplings: int = 2000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """By name, each figure of the things; resampled, as many are drawn from them with replacement.

    A resampling for which a figure is NaN does not count for that figure.
    """
    rng = np.random.default_rng(seed)
    draws = rng.integers(len(things), size=(resamplings, len(things)))
    resampled = [figures([things[i] for i in draw]) for draw in draws]
    found = {}
    for name, value in figures(things).items():
        low, high = np.nanpercentile([each[name] for each in resampled], _OUTSIDE)
        found[name] = Estimate(value, float(low), float(high))
    return found
