"""What judges are asked, and what is read out of their answers."""

from __future__ import annotations

import numpy as np
import pytest

from sae_train.labels.judge import Question
from sae_train.labels.label_contexts import LabelContext
from sae_train.labels.prompts import (
    label_question,
    list_question,
    read_label,
    read_list,
    read_points,
    rubric_question,
)


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("[1, 0, 1]", [True, False, True]),
        ("[true,false,true]", [True, False, True]),
        ("Text [1] is odd.\n```json\n[0, 0, 1]\n```", [False, False, True]),
        ("[1, 0]", None),
        ("[1, 0, 2]", None),
        ("[1, 0, ]", None),
        ("[[1, 0, 1]]", [True, False, True]),
        ("", None),
    ],
)
def test_a_list_is_read_if_it_has_one_nought_or_one_a_text(answer: str, found: list[bool] | None) -> None:
    assert read_list(answer, 3) == found


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("Description: names of months", "names of months"),
        ('Let me think.\n**Description: "greetings, as in letters."**\nIndeed.', "greetings, as in letters"),
        ("description:a\tb\u2028c\x1b[31m", "a b c [31m"),
        ("Description: " + "x" * 500, "x" * 200),
        ("Description:   \n", None),
        ("I do not know", None),
    ],
)
def test_a_label_is_read_as_one_short_line(answer: str, found: str | None) -> None:
    assert read_label(answer) == found


@pytest.mark.parametrize(
    ("answer", "points"),
    [
        ("Pattern: dogs\nScore: 4", 4),
        ("score: **5**", 5),
        ("Score: 6", None),
        ("Score: 45", None),
        ("4", None),
    ],
)
def test_points_are_read_if_there_are_1_to_5(answer: str, points: int | None) -> None:
    assert read_points(answer) == points


def context(text: str, values: list[float]) -> LabelContext:
    return LabelContext(list(text), np.array(values, dtype=np.float32))


def test_texts_cannot_be_taken_for_each_other() -> None:
    text = list_question(Question("detection", "a label", ["one\nText 2: two", 'say "hi"']))[1].content

    assert text.splitlines() == [
        "Description: a label",
        "",
        'Text 1: "one\\nText 2: two"',
        'Text 2: "say \\"hi\\""',
    ]


def test_a_label_is_asked_for_with_marks_strengths_and_counterexamples() -> None:
    asked = label_question(
        [context("abc", [0, 8, 4]), context("def", [0, 0, 0.5]), context("ghi", [0, 0, 0])]
    )

    assert asked[1].content.splitlines() == [
        '10: "a<<bc>>"',
        '1: "de<<f>>"',
        "",
        "It does not respond to these:",
        '- "ghi"',
    ]


def test_points_are_asked_for_by_the_rubric() -> None:
    asked = rubric_question([context("abc", [0, 8, 1])] * 5)

    assert asked[1].content.splitlines() == ['10: "a<<b>>c"'] * 5
    assert all(f"\n{points}: " in asked[0].content for points in range(1, 6))
