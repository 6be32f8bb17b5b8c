"""Intervals by resampling, next to what is known of a mean."""

from __future__ import annotations

from math import nan
from statistics import fmean, stdev

import numpy as np
import pytest

from benchmarks.bootstrap import estimates


def test_the_interval_of_a_mean_is_that_of_its_standard_error() -> None:
    values = np.random.default_rng(11).normal(5.0, 2.0, size=200).tolist()

    found = estimates(values, lambda drawn: {"mean": fmean(drawn)}, resamplings=4000)["mean"]

    error = stdev(values) / len(values) ** 0.5
    assert found.value == fmean(values)
    assert found.low == pytest.approx(found.value - 1.96 * error, abs=0.3 * error)
    assert found.high == pytest.approx(found.value + 1.96 * error, abs=0.3 * error)


def test_resamplings_without_the_figure_do_not_count() -> None:
    things = [1.0, 2.0]

    def figures(drawn: list[float]) -> dict[str, float]:
        return {"of both": fmean(drawn) if len(set(drawn)) == 2 else nan}

    found = estimates(things, figures, resamplings=100)["of both"]
    assert (found.value, found.low, found.high) == (1.5, 1.5, 1.5)
