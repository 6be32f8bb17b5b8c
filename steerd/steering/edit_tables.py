"""The edits of one hook point, row by row, in tensors that stay from step to step."""

from __future__ import annotations

from math import inf

import numpy as np
import torch
from torch import Tensor

from steerd.steering.apply import ActiveTables, AffineTables, Limits
from steerd.steering.coverage import Bools, Floats
from steerd.steering.intervention import Affine
from steerd.steering.room import Room

INITIAL_ROWS = 16

_GAIN, _BIAS, _ACTIVE_GAIN, _ACTIVE_BIAS, _LIMIT_WEIGHT, _LOW, _HIGH = range(7)
_NOTHING = np.array([0, 0, 0, 0, 0, -inf, inf], dtype=np.float32).reshape(7, 1, 1)


class EditTables:
    """Numbers of the affine form for each row and column of a step; a row without edits is all nothing.

    `begin` a step's layout, `write` its edits, then `finish`. While the layout stays as it is the tables do
    too: nothing is written and no tensor made. They grow to the largest step. With a Room, what some edit
    needed once is always there, and `version` grows when that or the place of the tables changes.
    """

    def __init__(self, device: torch.device, room: Room | None = None) -> None:
        self.device = device
        self.version = 0
        self.is_kept = False
        """Whether they have a part in every step from now on, be it nothing."""
        self._is_fixed = room is not None
        self._has_gain = self._is_fixed
        self._has_active = self._has_limits = self._has_preserve = False
        self._allocate(room.rows if room is not None else INITIAL_ROWS, 1)

    def begin(self, rows: int, columns: range) -> None:
        """Forget the edits so far; the coming ones are within `columns`."""
        if self._is_fixed and not self.is_kept:
            self.is_kept = True
            self.version += 1
        _, row_capacity, column_capacity = self._staged.shape
        if rows > row_capacity or columns.stop > column_capacity:
            # Room for twice as much, so that a growing server does not allocate at each request.
            self._allocate(max(2 * rows, row_capacity), max(2 * columns.stop, column_capacity))
        self._rows, self._window = rows, slice(columns.start, columns.stop)
        self._staged[:, :rows, self._window] = _NOTHING
        self._staged_preserve[:rows] = False
        if not self._is_fixed:
            self._has_gain = self._has_active = self._has_limits = self._has_preserve = False

    def write(self, first_row: int, factors: Floats, column: int, form: Affine) -> None:
        """One edit on consecutive rows, by factors [rows] of its strength."""
        cells = self._staged[:, first_row : first_row + len(factors), column]
        cells[_GAIN] = form.gain * factors
        cells[_BIAS] = form.bias * factors
        self._has_gain = self._has_gain or form.gain != 0
        if form.active_gain or form.active_bias:
            cells[_ACTIVE_GAIN] = form.active_gain * factors
            cells[_ACTIVE_BIAS] = form.active_bias * factors
            self._has_active = self._needed(self._has_active)
        if form.low > -inf or form.high < inf:
            cells[_LIMIT_WEIGHT] = form.limit_gain * factors
            cells[_LOW], cells[_HIGH] = form.low, form.high
            self._has_limits = self._needed(self._has_limits)

    def preserve(self, first_row: int, rows: Bools) -> None:
        """Some of these consecutive rows are to keep their length, whether it is known yet or not."""
        self._staged_preserve[first_row : first_row + len(rows)] |= rows
        self._has_preserve = self._needed(self._has_preserve)

    def finish(self) -> tuple[AffineTables, Tensor | None]:
        """The tables [rows, columns] of the window, and the rows that keep their length [rows], if any do."""
        if self.device.type != "cpu":
            rows = slice(self._rows)
            self._values[:, rows].copy_(torch.from_numpy(self._staged[:, rows]), non_blocking=True)
            self._preserve[rows].copy_(torch.from_numpy(self._staged_preserve[rows]), non_blocking=True)
        values = self._values[:, : self._rows, self._window]
        limits = Limits(values[_LIMIT_WEIGHT], values[_LOW], values[_HIGH]) if self._has_limits else None
        active = ActiveTables(values[_ACTIVE_GAIN], values[_ACTIVE_BIAS]) if self._has_active else None
        tables = AffineTables(
            gain=values[_GAIN] if self._has_gain else None,
            bias=values[_BIAS],
            active=active,
            limits=limits,
        )
        return tables, self._preserve[: self._rows] if self._has_preserve else None

    def _needed(self, was_there: bool) -> bool:
        self.version += not was_there
        return True

    def _allocate(self, rows: int, columns: int) -> None:
        staged, staged_preserve = np.empty((7, rows, columns), np.float32), np.zeros(rows, np.bool_)
        # On the CPU the tensors are the arrays themselves. Both are there before any takes a place, should
        # memory not be enough.
        values = torch.from_numpy(staged).to(self.device)
        self._preserve = torch.from_numpy(staged_preserve).to(self.device)
        self._values, self._staged, self._staged_preserve = values, staged, staged_preserve
        self.version += 1
