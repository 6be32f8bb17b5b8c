from __future__ import annotations

import json

import pytest

from sae_train.report.feature_details import LEVELS, EncodedDetails, FeatureDetails, PageContext
from sae_train.report.token_table import TokenTable
from steerd.sae.feature_label import FeatureLabel, LabelScore


def details_of(feature: int) -> FeatureDetails:
    contexts = [
        PageContext(tokens=["a", f"word {feature}", "a"], values=[0.0, 1.23456, 0.5], peak=1)
        for _ in range(10)
    ]
    sampled = [PageContext(["a"], [float(i + 1)], 0, percentile=i * 12.4) for i in range(8)]
    return FeatureDetails(
        histogram=[5, 0, 1],
        neighbours=[(7, 0.51239)],
        promoted=[("x", 3.14159), ("y", None)],
        suppressed=[("z", -2.0)],
        top=contexts,
        sampled=sampled,
    )


def fitted(features: int, max_bytes: int) -> EncodedDetails:
    encoded = EncodedDetails(map(details_of, range(features)), TokenTable())
    encoded.fit(max_bytes)
    return encoded


def test_details_say_what_was_given() -> None:
    table = TokenTable()

    encoded = EncodedDetails([details_of(0)], table)

    (found,) = map(json.loads, encoded.objects())
    texts = table.texts()
    assert encoded.contexts == LEVELS[0]
    assert found["histogram"] == [5, 0, 1]
    assert found["neighbours"] == [[7, 0.512]]
    assert [[texts[t], effect] for t, effect in found["promoted"]] == [["x", 3.14], ["y", None]]
    assert [[texts[t], effect] for t, effect in found["suppressed"]] == [["z", -2]]
    tokens, active, peak = found["top"][0]
    assert [texts[t] for t in tokens] == ["a", "word 0", "a"]
    assert (active, peak) == ([1, 1.23, 2, 0.5], 1)
    assert found["sampled"][3] == [[texts.index("a")], [0, 4], 0, 37]


def test_labels_come_with_their_tests() -> None:
    made = FeatureLabel(
        "tea", (LabelScore("tokens", 0.6, 9, strong=0.9), LabelScore("rubric", 4.0, 5, "judge"))
    )
    details = FeatureDetails(labels=[made, FeatureLabel("kinds of tea", by="model")])

    (text,) = EncodedDetails([details], TokenTable()).objects()

    assert json.loads(text)["labels"] == [
        ["tea", "", [["tokens", 0.6, True, "", 0.9], ["rubric", 4, False, "judge", None]]],
        ["kinds of tea", "model", []],
    ]


def test_a_feature_of_which_nothing_is_known_is_empty() -> None:
    (text,) = EncodedDetails([FeatureDetails()], TokenTable()).objects()

    assert all(value == [] for value in json.loads(text).values())


@pytest.mark.parametrize("bound", [20_000, 12_000, 6_000, 3_000])
def test_contexts_are_left_out_until_all_fits(bound: int) -> None:
    encoded = fitted(20, bound)

    top, sampled = encoded.contexts
    assert sum(len(text.encode()) + 1 for text in encoded.objects()) <= bound
    for text in encoded.objects():
        found = json.loads(text)
        assert (len(found["top"]), len(found["sampled"])) == (top, sampled)
        assert found["neighbours"]


def test_fewer_samples_still_span_the_range() -> None:
    encoded = fitted(1, 420)

    _, sampled = encoded.contexts
    values = [context[1][1] for context in json.loads(encoded.objects()[0])["sampled"]]
    assert 0 < sampled < 8
    assert values[0] < 4 < values[-1]


def test_nothing_is_left_to_leave_out() -> None:
    assert fitted(1, 1).contexts == (0, 0)
