"""Labels and the scores that go with them."""

from __future__ import annotations

import pytest

from steerd.sae.feature_label import FeatureLabel, LabelScore, better_label

TOKENS = LabelScore("tokens", 0.8, 30)


def detection(value: float, judge: str = "judge") -> LabelScore:
    return LabelScore("detection", value, 50, judge)


def test_the_score_to_show_is_of_who_read_the_texts() -> None:
    assert FeatureLabel("x").score is None
    assert FeatureLabel("x", (TOKENS,)).score == TOKENS
    assert FeatureLabel("x", (detection(0.6), TOKENS)).score == detection(0.6)
    assert FeatureLabel("x", (detection(0.6), detection(0.7, "other"))).score == detection(0.7, "other")


@pytest.mark.parametrize(
    ("made", "written", "shown"),
    [
        ((TOKENS, detection(0.6)), (detection(0.7),), "written"),
        ((TOKENS, detection(0.8)), (detection(0.7),), "made"),
        ((TOKENS, detection(0.9, "another judge")), (detection(0.7),), "written"),
        ((TOKENS,), (), "made"),
        ((), None, "made"),
    ],
)
def test_the_written_label_is_shown_where_it_was_tested_and_found_better(
    made: tuple[LabelScore, ...], written: tuple[LabelScore, ...] | None, shown: str
) -> None:
    other = None if written is None else FeatureLabel("written", written, by="model")

    assert better_label(FeatureLabel("made", made), other).text == shown


@pytest.mark.parametrize(
    ("score", "fails"),
    [
        (TOKENS, False),
        (LabelScore("tokens", 0.69, 30), True),
        (LabelScore("fuzzing", 0.5, 30), True),
        (LabelScore("rubric", 3.0, 5), True),
        (LabelScore("rubric", 4.0, 5), False),
    ],
)
def test_a_label_fails_below_its_bound(score: LabelScore, fails: bool) -> None:
    assert score.fails is fails
