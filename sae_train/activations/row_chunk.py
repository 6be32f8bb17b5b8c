"""Rows of activations on their way from the host to the buffer, kept as float16."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from steerd.host.hook_point import HookPoint

_FLOAT16_MAX = 65504.0


@dataclass(frozen=True, slots=True)
class RowCounts:
    """How many rows were given, and how many left out as outliers."""

    kept: int = 0
    dropped: int = 0
    """Rows that were an outlier at any hook point."""
    outliers: tuple[int, ...] = ()
    """Of these, the outliers at each hook point."""

    def __add__(self, other: RowCounts) -> RowCounts:
        return RowCounts(
            kept=self.kept + other.kept,
            dropped=self.dropped + other.dropped,
            outliers=tuple(a + b for a, b in zip(self.outliers, other.outliers, strict=True))
            if self.outliers and other.outliers
            else self.outliers or other.outliers,
        )

    def outlier_shares(self, hook_points: Sequence[HookPoint]) -> dict[str, float]:
        """Return by hook point the share of rows that were outliers there, each rounded to 6 digits."""
        rows = max(1, self.kept + self.dropped)
        shares = (round(count / rows, 6) for count in self.outliers or [0] * len(hook_points))
        return dict(zip(map(str, hook_points), shares, strict=True))


@dataclass(frozen=True, slots=True)
class RowChunk:
    """Consecutive rows of the training stream, to be mixed."""

    acts: Tensor
    """[rows, hook_points, d_model] float16."""
    special: Tensor
    """[rows] bool: whether the row's token is a special one."""
    counts: RowCounts = RowCounts()
    """What was kept of and left out from the chunk."""


class StreamPlace(NamedTuple):
    """Where a stream of chunks goes on: a chunk of a pass over the data."""

    pass_number: int = 0
    chunk: int = 0


def to_float16(resid: Tensor) -> Tensor:
    """Return activations as float16; what lies outside its range becomes its end, never infinite."""
    # In float32, since bfloat16 would round the bound itself out of float16's range.
    return resid.float().clamp(-_FLOAT16_MAX, _FLOAT16_MAX).half()
