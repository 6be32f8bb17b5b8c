"""Detection, fuzzing and the rubric with judges whose skill is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from sae_train.labels.judge import Question, Task
from sae_train.labels.label_contexts import LabelContext
from sae_train.labels.label_tests import rated, score_label
from steerd.host.text import ChatMessage
from steerd.sae.feature_label import LabelScore


@dataclass
class RuleJudge:
    """Answers by a rule."""

    rule: Callable[[str], bool | None]
    says: str = ""
    name: str = "by rule"
    parallel: int = 1

    def applies(self, question: Question) -> list[bool | None]:
        return [self.rule(text) for text in question.texts]

    def answer(self, messages: Sequence[ChatMessage]) -> str:
        assert messages
        return self.says


def contexts(active: int, others: int, strong: int = 0) -> list[LabelContext]:
    """Those that are active hold an x, at which the feature is active: strongly in the first ones."""
    found = []
    for number in range(active + others):
        values = np.zeros(12, dtype=np.float32)
        tokens = list("abcdefghijkl")
        if number < active:
            tokens[number % 12] = "x"
            values[number % 12] = 9.0 if number < strong else 1.0
        found.append(LabelContext(tokens, values))
    return found


@pytest.mark.parametrize("task", ["detection", "fuzzing"])
@pytest.mark.parametrize(
    ("rule", "value"),
    [
        (lambda text: "x" in text, 1.0),
        (lambda _text: True, 0.5),
        (lambda _text: False, 0.5),
        (lambda text: "x" not in text, 0.0),
    ],
)
def test_the_score_is_the_mean_share_told_right_of_either_kind(
    task: Task, rule: Callable[[str], bool], value: float
) -> None:
    score = score_label(RuleJudge(rule), task, "label", contexts(12, 30), max_activation=10.0)

    assert score == LabelScore(task, value, 12, "by rule")


def test_fuzzing_asks_about_the_marked_tokens() -> None:
    judge = RuleJudge(lambda text: "<<x>>" in text)

    score = score_label(judge, "fuzzing", "label", contexts(12, 12), max_activation=10.0)
    detected = score_label(judge, "detection", "label", contexts(12, 12), max_activation=10.0)

    assert score is not None
    assert score.value == 1.0
    assert detected is not None
    assert detected.value == 0.5


def test_strong_contexts_are_counted_apart_where_there_are_five() -> None:
    judge = RuleJudge(lambda text: "x" in text[:5])

    some = score_label(judge, "detection", "label", contexts(12, 12, strong=5), max_activation=10.0)
    few = score_label(judge, "detection", "label", contexts(12, 12, strong=4), max_activation=10.0)

    assert some is not None
    assert (some.value, some.strong) == (pytest.approx((5 / 12 + 1) / 2, abs=1e-3), 1.0)
    assert few is not None
    assert few.strong is None


def test_contexts_without_a_usable_answer_do_not_count() -> None:
    half = RuleJudge(lambda text: ("x" in text) if text[0] == "a" else None)

    score = score_label(half, "detection", "label", contexts(12, 12), max_activation=1.0)
    nothing = score_label(RuleJudge(lambda _text: None), "detection", "l", contexts(12, 12), 1.0)

    assert score == LabelScore("detection", 1.0, 11, "by rule", strong=1.0)
    assert nothing is None


def test_too_few_active_contexts_are_no_test() -> None:
    assert score_label(RuleJudge(lambda _text: True), "detection", "label", contexts(9, 9), 1.0) is None


def test_five_contexts_are_rated() -> None:
    judge = RuleJudge(lambda _text: None, says="Pattern: x\nScore: 4")

    assert rated(judge, contexts(5, 0)) == LabelScore("rubric", 4.0, 5, "by rule")
    assert rated(judge, contexts(4, 0)) is None
    assert rated(RuleJudge(lambda _text: None, says="no idea"), contexts(5, 0)) is None
