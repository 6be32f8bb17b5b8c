"""The conditions of one request, resolved: tests, each with a bit, and lanes that the bits open.

A lane is what makes an edit depend on the rows: it is open on the rows where the edit's condition holds, on
so many at most. A row's bits say which tests of its request are on there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from steerd.host.hook_point import HookPoint
from steerd.steering.intervention import Condition, FeatureTest

ALWAYS = (0,)
"""What a lane needs that has no condition."""


@dataclass(frozen=True, slots=True)
class ResolvedTest:
    """One test at its hook point, by the column that reads its target; `bit` is its number in the request."""

    hook_point: HookPoint
    column: int
    bit: int
    test: FeatureTest


@dataclass(frozen=True, slots=True)
class Lane:
    """What one edit waits for: all bits of any of `needs`; `budget` 0 is no bound.

    `column` is that of the edit, None for a reconstruction; its rows keep their length if `keeps_length`.
    """

    hook_point: HookPoint
    needs: tuple[int, ...]
    budget: int
    column: int | None
    keeps_length: bool


class LaneBook:
    """Numbers the tests and lanes of one request as they come.

    What comes first has the same numbers whatever comes after.
    """

    def __init__(self, read: Callable[[FeatureTest], tuple[HookPoint, int]]) -> None:
        """`read` gives a test the column that reads its target."""
        self._read = read
        self.tests: list[ResolvedTest] = []
        self.lanes: list[Lane] = []
        self._numbers: Counter[HookPoint] = Counter()

    def needs(self, condition: Condition) -> tuple[int, ...]:
        """The bits of each clause, all of which must be set in a row."""
        return tuple(sum(1 << self._bit(test) for test in all_of) for all_of in condition.any_of)

    def add(self, lane: Lane) -> int:
        """Its number at its hook point."""
        self.lanes.append(lane)
        self._numbers[lane.hook_point] += 1
        return self._numbers[lane.hook_point] - 1

    def _bit(self, test: FeatureTest) -> int:
        hook_point, column = self._read(test)
        bit = len(self.tests)
        self.tests.append(ResolvedTest(hook_point, column, bit, test))
        return bit
