"""What an attribution explains, as data: one number of the host's output after a prompt."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TokenLogit:
    """The logit of the next token `target`, or by how much it is above the logit of `against`."""

    target: int
    against: int | None = None


@dataclass(frozen=True, slots=True)
class AnswerLogprob:
    """The log-probability of the answer `target` after the prompt, summed over its tokens, or by how much it
    is above that of `against`; the answers may differ in length."""

    target: tuple[int, ...]
    against: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class AnswerLogit:
    """By how much the logits of the answer's tokens are above the mean of all, summed over its tokens.

    What raises the answers that compete raises this too; it lowers a log-probability.
    """

    target: tuple[int, ...]


Metric = TokenLogit | AnswerLogprob | AnswerLogit


def answers_of(metric: Metric) -> tuple[tuple[int, ...], ...]:
    """The tokens of the target and of what it is compared with, if anything."""
    match metric:
        case TokenLogit(target, against):
            return ((target,),) if against is None else ((target,), (against,))
        case AnswerLogprob(answer, other):
            return (answer,) if other is None else (answer, other)
        case AnswerLogit(answer):
            return (answer,)
