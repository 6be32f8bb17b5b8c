"""What steering gained by features that were chosen in different ways, and what a score tells of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from statistics import fmean

from steerd.studies.attribution.rank_correlation import rank_correlation

SUCCESS = "concept"
MEASURES = (SUCCESS, "active share", "promoted share")
SCORES = ("output score", "label score")
CHOICES = ("output score", "label score", "chance", "low output score")
LEAST = 0.01
"""A mean gain of success below is hardly one."""


@dataclass(frozen=True, slots=True)
class Steered:
    """A feature of the pool: its two scores by name, and by measure what steering by it gained."""

    scores: dict[str, float]
    gains: dict[str, float]


def choices(steered: Sequence[Steered]) -> dict[str, list[Steered]]:
    """By name of the choice, whom it takes."""
    third = max(len(steered) // 3, 1)
    rising = {name: sorted(steered, key=lambda each: each.scores[name]) for name in SCORES}
    return {
        "output score": rising["output score"][-third:],
        "label score": rising["label score"][-third:],
        "chance": list(steered),
        "low output score": rising["output score"][:third],
    }


def figures(steered: Sequence[Steered]) -> dict[str, float]:
    """All that is told of the pool, by name; NaN where there is no rank correlation."""
    told: dict[str, float] = {}
    taken = choices(steered)
    for measure in MEASURES:
        mean = {choice: fmean(each.gains[measure] for each in of_it) for choice, of_it in taken.items()}
        gains = [each.gains[measure] for each in steered]
        told |= {f"{measure}, {choice}": gain for choice, gain in mean.items()}
        for score in SCORES:
            correlation = rank_correlation([each.scores[score] for each in steered], gains)
            told[told_name(measure, score)] = nan if correlation is None else correlation
    success = told[f"{SUCCESS}, output score"]
    told |= {times_name(choice): times(success, told[f"{SUCCESS}, {choice}"]) for choice in CHOICES}
    return told


def times(gain: float, other: float) -> float:
    """How many times the other gain it is; 0 for none, and `LEAST` stands for a smaller gain of the other."""
    return max(gain, 0.0) / max(other, LEAST)


def times_name(other: str) -> str:
    """The name of the figure of how many times the other choice's success it is."""
    return f"{SUCCESS}, output score over {other}"


def told_name(measure: str, score: str) -> str:
    """The name of the rank correlation of a score with a measure."""
    return f"{measure}, told by {score}"
