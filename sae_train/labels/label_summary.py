"""How the labels of an SAE stood their tests, as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from steerd.sae.feature_label import LOWEST_PASSING, METHODS, LabelScore, Method
from steerd.sae.feature_note import FeatureNote

Record = dict[str, Any]  # Any: JSON values


def label_summary(notes: Sequence[FeatureNote]) -> Record:
    """Say for each method, of labels made of tokens and of written ones, how many were tested and failed.

    `failing_share` is of the tested ones; `strong` is about those that were tested on strong contexts too.
    """
    record: Record = {"features": len(notes)}
    made = [[score for note in notes for score in note.scores]]
    written = [[score for note in notes if note.written for score in note.written.scores]]
    for kind, (scores,) in (("labels", made), ("written_labels", written)):
        methods = {m: [s for s in scores if s.method == m] for m in METHODS}
        found = {method: _of_method(method, of_one) for method, of_one in methods.items() if of_one}
        if found:
            record[kind] = found
    return record


def _of_method(method: Method, scores: Sequence[LabelScore]) -> Record:
    record: Record = {
        "tested": len(scores),
        "median": median(score.value for score in scores),
        "lowest_passing": LOWEST_PASSING[method],
        "failing_share": _share([score.fails for score in scores]),
    }
    strong = [score.strong for score in scores if score.strong is not None]
    if strong:
        failing = _share([value < LOWEST_PASSING[method] for value in strong])
        record["strong"] = {"tested": len(strong), "median": median(strong), "failing_share": failing}
    return record


def _share(hits: Sequence[bool]) -> float:
    return round(sum(hits) / len(hits), 3)
