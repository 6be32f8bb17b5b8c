"""The feature table's columns, and the histogram of densities above it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sae_train.report.script_json import rounded
from sae_train.report.token_table import TokenTable
from steerd.sae.feature_files import FeatureStatistics
from steerd.sae.feature_note import FeatureNote

_BINS_A_DECADE = 4
_COSINE_BINS = 25


def feature_columns(
    features: int,
    statistics: FeatureStatistics | None,
    notes: tuple[FeatureNote, ...] | None,
    table: TokenTable,
) -> dict[str, Any]:  # Any: JSON values
    """Return one list a column for the first `features` features; columns of absent files are None."""
    columns: dict[str, Any] = {
        "count": features,
        "label": None,
        "score": None,
        "tokens": None,
        "promoted": None,
    }
    if notes is not None:
        shown = notes[:features]
        labels = [note.shown_label for note in shown]
        columns["label"] = [label.text for label in labels]
        if any(label.score for label in labels):
            columns["score"] = [label.score and rounded(label.score.value) for label in labels]
        columns["tokens"] = [table.numbers(note.top_tokens) for note in shown]
        columns["promoted"] = [table.numbers(note.promoted_tokens) for note in shown]
    for name, field in (("density", "density"), ("max", "max_activation"), ("mean", "mean_activation")):
        values = getattr(statistics, field)[:features].tolist() if statistics is not None else None
        columns[name] = values and [rounded(value) for value in values]
    return columns


def density_histogram(statistics: FeatureStatistics) -> dict[str, Any]:  # Any: JSON values
    """Count features by log10 of their density, in quarters of a decade; dead ones apart."""
    alive = statistics.density[~statistics.dead].double().numpy()
    logs = np.log10(np.maximum(alive, 1e-30))
    lowest = math.floor(logs.min()) if len(logs) else -1
    edges = np.linspace(lowest, 0, -lowest * _BINS_A_DECADE + 1)
    counts, _ = np.histogram(logs, bins=edges)
    return {
        "edges": [rounded(edge) for edge in edges.tolist()],
        "counts": counts.tolist(),
        "dead": int(statistics.dead.sum()),
    }


def maximum_histogram(statistics: FeatureStatistics) -> dict[str, Any]:  # Any: JSON values
    """Count features that are ever active by log10 of their largest activation, in tenths of a decade."""
    maxima = statistics.max_activation[statistics.max_activation > 0].double().numpy()
    logs = 10 * np.log10(maxima if len(maxima) else np.ones(1))
    lowest, highest = math.floor(logs.min()), math.floor(logs.max()) + 1
    counts, edges = np.histogram(logs[: len(maxima)], bins=np.arange(lowest, highest + 1))
    return {"edges": [rounded(edge / 10) for edge in edges.tolist()], "counts": counts.tolist()}


def nearest_histogram(nearest: NDArray[np.float32]) -> dict[str, Any]:  # Any: JSON values
    """Count features by the cosine [features] of the nearest other direction."""
    lowest = min(0.0, math.floor(10 * float(nearest.min())) / 10) if len(nearest) else 0.0
    counts, edges = np.histogram(nearest, bins=_COSINE_BINS, range=(lowest, 1.0 + 1e-6))
    return {"edges": [rounded(edge, 4) for edge in edges.tolist()], "counts": counts.tolist()}
