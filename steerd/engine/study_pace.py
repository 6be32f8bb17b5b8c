"""How large the slices of studies may be: larger and larger while no request comes."""

from __future__ import annotations

_GROWTH = 1.25


class StudyPace:
    """Large slices use the cores or the device better, and are given up when a request comes.

    As each is at most a quarter larger than the one before, what is given up is at most about a third of what
    was done since the last request, if that was more than a few slices.
    """

    def __init__(self, *, small: int, large: int) -> None:
        """Rows: of slices beside requests, and of the largest on an idle engine."""
        self._small = self._rows = small
        self._large = max(small, large)

    @property
    def rows(self) -> int | None:
        """How many the next slice may have; None for what it has beside requests."""
        return self._rows if self._rows > self._small else None

    def grow(self) -> None:
        """After a slice while no request was there."""
        self._rows = min(int(self._rows * _GROWTH) + 1, self._large)

    def shrink(self) -> None:
        """After a request came."""
        self._rows = self._small
