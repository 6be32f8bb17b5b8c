"""What the operator's rules leave to be tried, and what they do not, which is told."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Protocol, TypeVar

from steerd.steering.intervention import Intervention
from steerd.studies.answers.result import LeftOut

Refusal = Callable[[Sequence[Intervention]], str | None]
"""Why interventions may not be made besides what steers the text; None if they may."""

_MOST_TOLD = 50
_LOOKED_AT_ONCE = 256  # interventions by themselves: a slice


class _Move(Protocol):
    @property
    def intervention(self) -> Intervention: ...


M = TypeVar("M", bound=_Move)


class OperatorRules:
    """Asks a Refusal; `left_out` are the first sets of interventions that it forbade, each once."""

    def __init__(self, refusal: Refusal) -> None:
        self._refusal = refusal
        self._reasons: dict[tuple[Intervention, ...], str] = {}

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        return tuple(LeftOut(each, reason) for each, reason in self._reasons.items())

    def allow(self, interventions: Sequence[Intervention]) -> bool:
        """Whether they may be made together."""
        reason = self._refusal(interventions)
        if reason is not None:
            self.leave_out(interventions, reason)
        return reason is None

    def leave_out(self, interventions: Sequence[Intervention], reason: str) -> None:
        """Remember what is not tried, or not to the end."""
        if len(self._reasons) < _MOST_TOLD:
            self._reasons.setdefault(tuple(interventions), reason)

    def first_allowed(self, moves: Iterable[M], count: int) -> Generator[None, None, list[M]]:
        """The first so many of the moves that may be made; each yield ends a slice."""
        found: list[M] = []
        for number, move in enumerate(moves, start=1):
            if len(found) == count:
                break
            if self.allow([move.intervention]):
                found.append(move)
            if number % _LOOKED_AT_ONCE == 0:
                yield
        return found
