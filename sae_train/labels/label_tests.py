"""A label put to the test: who goes by it tells, of new contexts, those in which its feature is active."""

from __future__ import annotations

from collections.abc import Sequence

from sae_train.labels.judge import Judge, Question, Task
from sae_train.labels.label_contexts import LabelContext
from sae_train.labels.marked_text import marked_texts, plain_text
from sae_train.labels.prompts import read_points, rubric_question
from steerd.sae.feature_label import STRONG, LabelScore

LEAST_CONTEXTS = 10
"""Contexts with the feature active below which a label is not tested."""
_LEAST_STRONG = 5
_RUBRIC_CONTEXTS = 5


def score_label(
    judge: Judge, task: Task, label: str, contexts: Sequence[LabelContext], max_activation: float
) -> LabelScore | None:
    """Test a label by detection or fuzzing (arXiv 2410.13928) on active contexts and as many others.

    Detection shows the texts as they are and asks in which the label applies. Fuzzing marks tokens in each,
    the active ones or as many at random where none is, and asks where all marks are right. The score is the
    class-balanced accuracy over the contexts for which there was a usable answer. None where fewer than
    LEAST_CONTEXTS are active, or fewer than half of all got one. Raises JudgeError.
    """
    active = [context.is_active for context in contexts]
    if sum(active) < LEAST_CONTEXTS:
        return None
    texts = list(map(plain_text, contexts)) if task == "detection" else marked_texts(contexts, seed=0)
    told = judge.applies(Question(task, label, texts))
    strong_from = STRONG * max_activation
    right = [
        (is_active, is_active and context.peak >= strong_from, answer == is_active)
        for is_active, context, answer in zip(active, contexts, told, strict=True)
        if answer is not None
    ]
    on_active = [ok for is_active, _, ok in right if is_active]
    on_others = [ok for is_active, _, ok in right if not is_active]
    if 2 * len(right) < len(contexts) or not on_active or not on_others:
        return None
    on_strong = [ok for _, is_strong, ok in right if is_strong]
    return LabelScore(
        method=task,
        value=_balanced(on_active, on_others),
        contexts=len(on_active),
        judge=judge.name,
        strong=_balanced(on_strong, on_others) if len(on_strong) >= _LEAST_STRONG else None,
    )


def rated(judge: Judge, strongest: Sequence[LabelContext]) -> LabelScore | None:
    """Have the five strongest contexts rated for how clear a pattern they show, 1 to 5 (arXiv 2506.07691).

    None where there are fewer, or the answer gives no points. Raises JudgeError.
    """
    if len(strongest) < _RUBRIC_CONTEXTS:
        return None
    points = read_points(judge.answer(rubric_question(strongest)))
    return None if points is None else LabelScore("rubric", float(points), len(strongest), judge.name)


def _balanced(on_active: Sequence[bool], on_others: Sequence[bool]) -> float:
    value = (sum(on_active) / len(on_active) + sum(on_others) / len(on_others)) / 2
    return round(value, 3)
