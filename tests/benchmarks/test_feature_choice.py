"""Which features are drawn, and where their curves are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from benchmarks.feature_choice import at_equal_fluency, pool
from steerd.sae.feature_label import LabelScore
from steerd.sae.sae_file import SaeBundle
from steerd.steering.intervention import FeatureRef
from steerd.studies.dose_curve import DoseCurve
from tests.study_wire.test_evaluate import POINT, TEXT
from tests.tiny_saes import bundle_of, random_sae


def bundle(dead: Sequence[int] = (), untested: Sequence[int] = (), special: Sequence[int] = ()) -> SaeBundle:
    """Of twelve features; all but the named ones are tested, alive and of ordinary tokens."""
    made = bundle_of(random_sae(8, 12))
    assert made.notes is not None
    assert made.statistics is not None
    score = LabelScore("tokens", 0.6, 10)
    notes = tuple(
        replace(
            note,
            scores=() if note.feature in untested else (score,),
            top_tokens=(" word", "<|im_end|>") if note.feature in special else (" word", "<b>"),
        )
        for note in made.notes
    )
    is_dead = torch.tensor([index in dead for index in range(12)])
    return replace(made, notes=notes, statistics=replace(made.statistics, dead=is_dead))


def test_the_pool_is_drawn_from_living_features_of_ordinary_tokens_with_a_tested_label() -> None:
    found = pool(bundle(dead=[1, 2], untested=[3], special=[4, 5]), 7, seed=3)

    assert sorted(found) == [0, 6, 7, 8, 9, 10, 11]


def test_the_pool_is_the_same_for_the_same_seed_alone() -> None:
    drawn = [pool(bundle(), 6, seed) for seed in (1, 1, 2)]

    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


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
