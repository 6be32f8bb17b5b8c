from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from sae_train.report.feature_columns import (
    density_histogram,
    feature_columns,
    maximum_histogram,
    nearest_histogram,
)
from sae_train.report.token_table import TokenTable
from steerd.sae.feature_files import FeatureStatistics
from steerd.sae.feature_label import LabelScore
from steerd.sae.feature_note import FeatureNote


def statistics_with(density: list[float]) -> FeatureStatistics:
    values = torch.tensor(density)
    return FeatureStatistics(
        max_activation=values * 100, density=values, mean_activation=values * 10, dead=values == 0
    )


def test_columns_are_the_files_values() -> None:
    notes = tuple(FeatureNote(i, f"label {i}", [" a", "b"], ["b"], []) for i in range(3))
    notes = (replace(notes[0], scores=[LabelScore("tokens", 0.625, 9)]), *notes[1:])
    table = TokenTable()

    columns = feature_columns(2, statistics_with([0.1, 0.02, 0.5]), notes, table)

    assert columns == {
        "count": 2,
        "label": ["label 0", "label 1"],
        "score": [0.625, None],
        "tokens": [[0, 1], [0, 1]],
        "promoted": [[1], [1]],
        "density": [0.1, 0.02],
        "max": [10, 2],
        "mean": [1, 0.2],
    }
    assert table.texts() == [" a", "b"]
    assert table.known(["b", "never"]) == [1]


def test_files_that_are_not_there_leave_their_columns_empty() -> None:
    columns = feature_columns(2, None, None, TokenTable())

    assert columns == dict.fromkeys(("label", "score", "tokens", "promoted", "density", "max", "mean")) | {
        "count": 2
    }


def test_densities_are_counted_by_their_logarithm() -> None:
    histogram = density_histogram(statistics_with([0.0, 0.5, 0.05, 0.04, 0.002, 1.0]))

    assert histogram["dead"] == 1
    assert histogram["edges"][0] == -3
    assert histogram["edges"][-1] == 0
    assert sum(histogram["counts"]) == 5
    assert histogram["counts"][-1] == 1  # 1.0: above 10^-0.25
    assert histogram["counts"][-2] == 1  # 0.5


def test_all_dead_features_are_no_histogram_but_no_error() -> None:
    assert sum(density_histogram(statistics_with([0.0, 0.0]))["counts"]) == 0


def test_largest_activations_are_counted_by_their_logarithm() -> None:
    histogram = maximum_histogram(statistics_with([0.0, 0.02, 0.01, 1.0]))  # maxima of 0, 2, 1 and 100

    assert histogram["edges"][0] == 0
    assert histogram["edges"][-1] == 2.1
    assert [i for i, count in enumerate(histogram["counts"]) if count] == [0, 3, 20]
    assert sum(maximum_histogram(statistics_with([0.0]))["counts"]) == 0


def test_nearest_cosines_are_all_counted() -> None:
    histogram = nearest_histogram(np.array([-0.25, 0.0, 0.5, 1.0], dtype=np.float32))

    assert sum(histogram["counts"]) == 4
    assert histogram["edges"][0] == -0.3
