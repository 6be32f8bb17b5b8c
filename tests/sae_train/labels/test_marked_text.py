from __future__ import annotations

import re

import numpy as np

from sae_train.labels.label_contexts import LabelContext
from sae_train.labels.marked_text import active_places, marked_text, marked_texts


def context(values: list[float], text: str = "abcdefgh") -> LabelContext:
    return LabelContext(list(text), np.array(values, dtype=np.float32))


def test_runs_of_tokens_are_marked_together() -> None:
    assert marked_text(list("abcde"), {1, 2, 4}) == "a<<bc>>d<<e>>"
    assert marked_text(list("abcde"), ()) == "abcde"
    assert marked_text(list("ab"), {0, 1}) == "<<ab>>"


def test_active_tokens_are_those_not_far_below_the_strongest() -> None:
    assert active_places(context([0, 10, 3, 2.9, 0, 0, 0, 5])) == [1, 2, 7]
    assert active_places(context([0] * 8)) == []


def test_where_nothing_is_active_as_many_tokens_are_marked_as_elsewhere() -> None:
    contexts = [context([0, 1, 0, 1, 0, 0, 0, 0]), context([0, 1, 1, 1, 0, 0, 0, 0]), context([0] * 8)] * 5

    texts = marked_texts(contexts, seed=1)

    assert texts[:2] == ["a<<b>>c<<d>>efgh", "a<<bcd>>efgh"]
    wrong = set(texts[2::3])
    assert len(wrong) > 1
    for text in wrong:
        assert sum(len(part) for part in re.findall("<<(.*?)>>", text)) == 3
        assert text.replace("<<", "").replace(">>", "") == "abcdefgh"
    assert texts == marked_texts(contexts, seed=1)
