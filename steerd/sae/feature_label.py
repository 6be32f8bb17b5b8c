"""What a feature is said to stand for, and how far that was found true on texts that nobody had seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Method = Literal["tokens", "detection", "fuzzing", "rubric"]
METHODS: tuple[Method, ...] = ("tokens", "detection", "fuzzing", "rubric")

STRONG = 0.5
RUBRIC_POINTS = 5
LOWEST_PASSING: dict[Method, float] = {"tokens": 0.7, "detection": 0.7, "fuzzing": 0.7, "rubric": 4.0}
"""A label whose value is below fails."""


@dataclass(frozen=True, slots=True)
class LabelScore:
    """How well a label tells, of held-out contexts, those in which its feature is active.

    With `tokens`, `detection` and `fuzzing` the value is the class-balanced accuracy of who goes by the
    label: the mean of the shares of active and of inactive contexts that were told right, 0.5 for guessing, 1
    at best.

    - `tokens`: nobody judges; a context counts as active where one of the label's words is in it
    - `detection`: a language model reads contexts and says in which the label applies (arXiv 2410.13928)
    - `fuzzing`: it sees marked tokens in each and says where the label applies to all of them (same paper)
    - `rubric`: it gives five of the strongest contexts 1 to 5 points for how clear a pattern they show
      (arXiv 2506.07691); this is about the feature rather than its label

    `judge` names the language model, `contexts` counts the contexts with the feature active that it was
    measured on; as a rule as many others come on top. Most of them are weak, and a label tells the strong
    ones better: `strong` is the value where only those contexts count as active in which the feature reaches
    STRONG of its recorded maximum, and weaker ones not at all; None where they are too few.
    """

    method: Method
    value: float
    contexts: int
    judge: str = ""
    strong: float | None = None

    @property
    def fails(self) -> bool:
        """Whether the label is too often wrong to go by."""
        return self.value < LOWEST_PASSING[self.method]


@dataclass(frozen=True, slots=True)
class FeatureLabel:
    """A few words for a feature and what their tests found; `by` is the model that wrote them.

    Without `by` they were made of the statistics of its tokens.
    """

    text: str
    scores: Sequence[LabelScore] = ()
    by: str = ""

    @property
    def score(self) -> LabelScore | None:
        """The one score to show: of what a model found by reading the texts, else of the words alone."""
        return self.found("detection") or self.found("tokens")

    def found(self, method: Method) -> LabelScore | None:
        """The score by that method; the last one where several models judged."""
        return next((score for score in reversed(self.scores) if score.method == method), None)


def better_label(made: FeatureLabel, written: FeatureLabel | None) -> FeatureLabel:
    """Which of two labels to show: the written one where its detection score is the higher one.

    One that was never tested is not shown.
    """
    tested = None if written is None else written.found("detection")
    if written is None or tested is None:
        return made
    other = next((s for s in made.scores if (s.method, s.judge) == ("detection", tested.judge)), None)
    return written if other is None or tested.value > other.value else made
