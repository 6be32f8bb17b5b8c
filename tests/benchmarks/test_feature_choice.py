"""Which features each choice takes, and where their curves are read."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.feature_choice import at_equal_fluency, chosen, times
from steerd.sae.feature_label import FeatureLabel, LabelScore
from steerd.steering.intervention import FeatureRef
from steerd.studies.dose_curve import DoseCurve
from steerd.studies.output_table import RankedOutput
from tests.study_wire.test_evaluate import POINT, TEXT


def ranked(index: int, score: float, label: float | None) -> RankedOutput:
    tested = () if label is None else (LabelScore("tokens", label, 10, ""),)
    return RankedOutput(FeatureRef("sae", index), FeatureLabel("label", tested), score, ())


def test_each_choice_takes_its_own_best_of_those_with_a_tested_label() -> None:
    features = [ranked(0, 0.9, None), ranked(1, 0.8, 0.6), ranked(2, 0.5, 0.9), ranked(3, 0.1, 0.7)]

    groups = chosen(features, 2, seed=1)

    indices = {name: [found.feature.index for found in group] for name, group in groups.items()}
    assert indices["output score"] == [1, 2]
    assert indices["label"] == [2, 3]
    assert len(set(indices["chance"])) == 2
    assert 0 not in indices["chance"]


def curve(*pairs: tuple[float, float]) -> DoseCurve:
    """Of points with these fluencies and concepts; the unsteered concept is 0.125."""
    points = tuple(
        replace(POINT, strength=float(n), fluency=fluency, text=replace(TEXT, concept=concept))
        for n, (fluency, concept) in enumerate(pairs)
    )
    return DoseCurve(True, FeatureRef("sae", 1), 0.5, (), replace(TEXT, concept=0.125), "", points, ())


def test_the_curve_is_read_between_the_points_where_fluency_passes_the_mark() -> None:
    found = at_equal_fluency(curve((0.9, 0.325), (0.5, 0.525), (0.1, 1.0)), 0.6)

    assert found["concept"] == pytest.approx(0.35)
    assert at_equal_fluency(curve((0.5, 0.325)), 0.6)["concept"] == pytest.approx(0.16), "from the unsteered"


def test_a_curve_that_never_gets_there_is_read_at_its_end() -> None:
    assert at_equal_fluency(curve((0.9, 0.225), (0.8, 0.425)), 0.6)["concept"] == pytest.approx(0.3)


def test_no_gain_is_no_times_anything() -> None:
    assert times(0.3, 0.15) == pytest.approx(2.0)
    assert times(0.3, 0.0) == pytest.approx(30.0), "as one of 0.01"
    assert times(-0.1, -0.2) == 0.0
