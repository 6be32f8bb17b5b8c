"""What a client wants to know of two answers to a prompt, as data."""

from __future__ import annotations

from dataclasses import dataclass

from steerd.steering.steering import Steering


@dataclass(frozen=True, slots=True)
class ControlText:
    """A text on which side effects are measured, and what steers it anyway."""

    prompt_ids: tuple[int, ...]
    steering: Steering


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerWish:
    """A prompt, the right and a wrong answer to it, all in token ids, and what steers them whatever is tried.

    `max_features` features of `saes` are ablated, each by itself. Tried besides are `additions` features,
    added on every row at `dose` times their recorded maximum; 0 additions: nothing is added. A flip is at
    most `max_moves` steps away before more is made together. A feature pushes an answer if ablating it
    lowers its logit, or the log-probability of answers longer than a token, by `min_effect`. What a flip does
    otherwise is measured on the texts of `controls`, each under the same steering.
    """

    prompt_ids: tuple[int, ...]
    right: tuple[int, ...]
    wrong: tuple[int, ...]
    saes: tuple[str, ...]
    steering: Steering
    plan_hash: str
    max_features: int
    additions: int
    dose: float
    max_moves: int
    min_effect: float
    controls: tuple[ControlText, ...]

    @property
    def is_long(self) -> bool:
        """Whether an answer has more than one token."""
        return max(len(self.right), len(self.wrong)) > 1
