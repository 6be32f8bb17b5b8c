"""The search for few interventions that together turn a wrong answer into a right one, all really tried."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence

Set = frozenset[int]
Try = Callable[[Sequence[Set]], Generator[None, None, Sequence[float]]]
"""Measures how far the right answer leads under each set, a slice at a time."""


class FlipSearch:
    """Grows a set by the move that helps most, until the right answer wins; then leaves out what it can.

    Moves are numbers below `num_moves`, in the order in which they are expected to help. Where no single step
    helps, because one feature stands in for another, the first moves are made together, more and more of
    them. `leads` has every set that was tried; a lead above 0 is a flip.
    """

    def __init__(
        self, num_moves: int, lead: float, *, max_moves: int, may_make: Callable[[Set], bool]
    ) -> None:
        """`lead` is that without any move. `may_make` says whether moves may be made together."""
        self._moves = range(num_moves)
        self._max_moves = max_moves
        self._may_make = may_make
        self.leads: dict[Set, float] = {frozenset(): lead}

    @property
    def flips(self) -> list[Set]:
        """The smallest of the sets tried so far that flip the answer, by falling lead."""
        flipping = [tried for tried, lead in self.leads.items() if lead > 0]
        fewest = min(map(len, flipping), default=0)
        return sorted((each for each in flipping if len(each) == fewest), key=lambda each: -self.leads[each])

    @property
    def smallest(self) -> Set | None:
        """The first of `flips`; None of none."""
        return next(iter(self.flips), None)

    def is_minimal(self, chosen: Set) -> bool:
        """Whether a set that flips the answer was tried without each of its moves."""
        return not self._untried(_smaller(chosen))

    def run(self, try_sets: Try) -> Generator[None]:
        """Search; afterwards `smallest` is minimal, unless it is None."""
        yield from self._grow(try_sets)
        if self.smallest is None:
            yield from self._make_together(try_sets)
        while (smallest := self.smallest) is not None and (untried := self._untried(_smaller(smallest))):
            yield from self._try(try_sets, untried)

    def _grow(self, try_sets: Try) -> Generator[None]:
        chosen: Set = frozenset()
        while self.leads[chosen] <= 0 and len(chosen) < self._max_moves:
            larger = [chosen | {move} for move in self._moves if self._fits(move, chosen)]
            yield from self._try(try_sets, self._untried(larger))
            best = max(larger, key=self.leads.__getitem__, default=chosen)
            if self.leads[best] <= self.leads[chosen]:
                return
            chosen = best

    def _make_together(self, try_sets: Try) -> Generator[None]:
        together: Set = frozenset()
        size = 2
        for move in self._moves:
            if self._fits(move, together):
                together |= {move}
            if len(together) == size or move == len(self._moves) - 1:
                yield from self._try(try_sets, self._untried([together]))
                size *= 2
            if self.smallest is not None:
                return

    def _fits(self, move: int, chosen: Set) -> bool:
        return move not in chosen and self._may_make(chosen | {move})

    def _untried(self, sets: Iterable[Set]) -> list[Set]:
        return [each for each in sets if each not in self.leads]

    def _try(self, try_sets: Try, sets: Sequence[Set]) -> Generator[None]:
        leads = yield from try_sets(sets)
        self.leads.update(zip(sets, leads, strict=True))


def _smaller(chosen: Set) -> list[Set]:
    """The set without each of its moves."""
    return [chosen - {move} for move in sorted(chosen)]
