"""Who writes labels and says where they apply: a language model, wherever it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from steerd.errors import SteerdError
from steerd.host.text import ChatMessage

Task = Literal["detection", "fuzzing"]


class JudgeError(SteerdError):
    """A judge that cannot be asked: refused, unreachable, or answering with something else than a chat."""

    reason = "JUDGE_ERROR"


@dataclass(frozen=True, slots=True)
class Question:
    """A label and the texts of which is asked where it applies.

    With `detection` to a whole text, with `fuzzing` to every part of it between << and >>.
    """

    task: Task
    label: str
    texts: Sequence[str]


class Judge(Protocol):
    """A language model. `name` goes with every score that it gives."""

    @property
    def name(self) -> str: ...

    @property
    def parallel(self) -> int:
        """From how many threads it may be asked at once."""

    def applies(self, question: Question) -> list[bool | None]:
        """Say of each text whether the label applies; None where there was no usable answer.

        Raises JudgeError when there is no use in asking on.
        """

    def answer(self, messages: Sequence[ChatMessage]) -> str:
        """Answer a conversation in a few sentences at most; raises JudgeError."""
