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


Metric = TokenLogit | AnswerLogprob
