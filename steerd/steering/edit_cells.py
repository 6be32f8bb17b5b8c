"""Where the edits of a step are made and whose they are, for counting afterwards what they did."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from steerd.steering.coverage import Floats
from steerd.steering.intervention import Target
from steerd.steering.request_wishes import ColumnEdit, ResolvedEdit

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SpanEdit:
    """One edit of the request in a slot, and how strong it is on its rows in a step, [rows]."""

    slot: int
    first_row: int
    edit: ResolvedEdit
    factors: Floats

    @property
    def rows(self) -> Ints:
        """The step's rows on which it has any strength."""
        return np.flatnonzero(self.factors) + self.first_row


@dataclass(frozen=True, slots=True)
class SharedTarget:
    """A target that several edits of one request are made on in a step, and their cells."""

    slot: int
    target: Target
    cells: Ints


@dataclass(frozen=True, slots=True)
class EditCells:
    """The cells of one hook point: each is a row and an edit along a direction with any strength there.

    By edit: `slots`, `numbers` and first cells, `starts`. By cell: `rows`, `columns`, and the `lengths` of
    their directions. `wholes` are slot and number of each reconstruction.
    """

    slots: Ints
    numbers: Ints
    starts: Ints
    rows: Ints
    columns: Ints
    lengths: Floats
    shared: tuple[SharedTarget, ...]
    wholes: tuple[tuple[int, int], ...]


def edit_cells(found: Sequence[SpanEdit], lengths: Floats) -> EditCells:
    """The cells of a hook point's edits; lengths [columns] are those of the directions."""
    along = [(part, part.edit.does.column) for part in found if isinstance(part.edit.does, ColumnEdit)]
    rows = [part.rows for part, _ in along]
    counts = np.array([len(each) for each in rows], dtype=np.int64)
    ends = np.cumsum(counts, dtype=np.int64)
    columns = np.repeat(np.array([column for _, column in along], dtype=np.int64), counts)
    return EditCells(
        slots=np.array([part.slot for part, _ in along], dtype=np.int64),
        numbers=np.array([part.edit.number for part, _ in along], dtype=np.int64),
        starts=ends - counts,
        rows=np.concatenate(rows) if rows else np.zeros(0, dtype=np.int64),
        columns=columns,
        lengths=lengths[columns],
        shared=tuple(_shared([part for part, _ in along], ends)),
        wholes=tuple(
            (part.slot, part.edit.number) for part in found if not isinstance(part.edit.does, ColumnEdit)
        ),
    )


def _shared(along: Sequence[SpanEdit], ends: Ints) -> Iterator[SharedTarget]:
    by_target: dict[tuple[int, Target], list[Ints]] = {}
    for part, end in zip(along, ends.tolist(), strict=True):
        cells = np.arange(end - np.count_nonzero(part.factors), end, dtype=np.int64)
        by_target.setdefault((part.slot, part.edit.target), []).append(cells)
    for (slot, target), several in by_target.items():
        if len(several) > 1:
            yield SharedTarget(slot, target, np.concatenate(several))
