"""What the edits of the running requests did so far: for their receipts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from steerd.engine.events import Floats
from steerd.engine.readings import DoneReadings, EditReadings, StepReadings
from steerd.host.hook_point import HookPoint
from steerd.steering.edit_cells import EditCells
from steerd.steering.intervention import Target
from steerd.steering.receipt import HookPointReceipt, InterventionReceipt, Receipt
from steerd.steering.request_wishes import RequestWishes
from steerd.steering.step_layout import StepLayout

Doubles = NDArray[np.float64]

# What is summed for each edit, and for each request at a hook point.
_ROWS, _CHANGED, _RELATIVE, _BEFORE, _AFTER = range(5)
_POINT_CHANGED, _POINT_RELATIVE, _POINT_LARGEST = range(3)


class EditTally:
    """Sums over the rows of every running request, by the slots of their wishes.

    Those of its edits are [5, slots, edits], those of all hook points [3, points, slots]: a step adds to each
    once, however many points are edited.
    """

    def __init__(self) -> None:
        self._edits = np.zeros((5, 0, 0))
        self._rows = np.zeros((3, 0, 0))
        self._points: dict[HookPoint, int] = {}  # where each stands in the sums
        self._overlaps: dict[int, Counter[Target]] = {}

    def start(self, wishes: RequestWishes) -> None:
        """Begin counting for a request whose slot may have been another's."""
        slot = wishes.slot
        self._edits = _fitted(self._edits, (5, slot + 1, len(wishes.numbered)))
        self._edits[:, slot] = 0
        for edit in wishes.numbered:
            self._points.setdefault(edit.hook_point, len(self._points))
        self._rows = _fitted(self._rows, (3, len(self._points), self._edits.shape[1]))
        self._rows[:, :, slot] = 0
        self._overlaps[slot] = Counter()

    def add(self, readings: StepReadings) -> None:
        """Count what one step edited."""
        if not readings.edits:
            return
        # Rows that are not finite make their own request fail, soon.
        with np.errstate(all="ignore"):
            found = [
                _cells(done, done.amounts, readings.acts[hook_point], after)
                for hook_point, after in readings.edits.items()
                for done in after.done
                if done.amounts is not None and len(done.edits.cells.rows)
            ]
            if found:
                self._add_cells(found)
            self._add_reconstructions(readings.edits.values())
            self._add_rows(readings.edits, readings.plan.layout)

    def steered_rows(self, wishes: RequestWishes) -> Mapping[Target, int]:
        """By target, on how many rows a request's edits were made; several on one row count once."""
        steered: Counter[Target] = Counter()
        for edit, rows in zip(wishes.numbered, self._edits[_ROWS, wishes.slot], strict=False):
            steered[edit.target] += int(rows)
        return steered - self._overlaps[wishes.slot]

    def receipt(self, wishes: RequestWishes) -> Receipt:
        """What a request's edits did, in their order, and altogether at each hook point."""
        points = {edit.hook_point for edit in wishes.numbered}
        return Receipt(
            tuple(map(_intervention, self._edits[:, wishes.slot, : len(wishes.numbered)].T)),
            tuple(
                _hook_point(point, self._rows[:, self._points[point], wishes.slot])
                for point in sorted(points, key=lambda point: (point.depth, point.site))
            ),
        )

    def _add_cells(self, found: Sequence[_Cells]) -> None:
        made, amounts, directions, rows, before, after = map(
            np.concatenate, zip(*(f.values for f in found), strict=True)
        )
        relative = _relative(np.abs(amounts) * directions, rows)
        sums = np.stack([made, amounts != 0, relative, before * made, after * made])  # [5, cells]
        slots = np.concatenate([part.cells.slots for part in found])
        if len(slots) < len(made):  # some edit has several rows
            firsts = np.cumsum([0, *(len(part.cells.rows) for part in found[:-1])])
            starts = [part.cells.starts + first for part, first in zip(found, firsts, strict=True)]
            sums = np.add.reduceat(sums, np.concatenate(starts), axis=1, dtype=np.float64)
        self._edits[:, slots, np.concatenate([part.cells.numbers for part in found])] += sums
        for part in found:
            for shared in part.cells.shared:
                steered = part.cells.rows[shared.cells][part.values[0][shared.cells] > 0]
                self._overlaps[shared.slot][shared.target] += len(steered) - len(np.unique(steered))

    def _add_reconstructions(self, readings: Iterable[EditReadings]) -> None:
        for after in readings:
            for done in after.done:
                edits = done.edits
                parts = zip(edits.cells.wholes, edits.reconstructions, done.reconstructions, strict=True)
                for (slot, number), part, (factors, changes) in parts:
                    relative = _relative(changes, after.lengths[part.rows.cpu().numpy()]).sum(
                        dtype=np.float64
                    )
                    sums = np.count_nonzero(factors), np.count_nonzero(changes), relative
                    self._edits[: _RELATIVE + 1, slot, number] += sums

    def _add_rows(self, readings: Mapping[HookPoint, EditReadings], layout: StepLayout) -> None:
        changes = np.stack([after.changes for after in readings.values()])  # [points, rows]
        largest = _relative(changes, np.stack([after.lengths for after in readings.values()]))
        sums = np.stack([changes > 0, largest])
        if len(layout.slots) < changes.shape[1]:  # some request has several rows
            sums = np.add.reduceat(sums, layout.starts, axis=2, dtype=np.float64)
            largest = np.maximum.reduceat(largest, layout.starts, axis=1)
        points = np.array([self._points[hook_point] for hook_point in readings], dtype=np.int64)
        here = np.ix_(points, layout.slots)
        self._rows[_POINT_CHANGED][here] += sums[_POINT_CHANGED]
        self._rows[_POINT_RELATIVE][here] += sums[_POINT_RELATIVE]
        self._rows[_POINT_LARGEST][here] = np.maximum(self._rows[_POINT_LARGEST][here], largest)


class _Cells(NamedTuple):
    """The cells of some edits of one hook point.

    By cell: whether it was made, how much was added of the direction, the lengths of direction and row, and
    what the target read before and after.
    """

    cells: EditCells
    values: tuple[Floats, Floats, Floats, Floats, Floats, Floats]


def _cells(done: DoneReadings, amounts: Floats, acts: Floats, after: EditReadings) -> _Cells:
    cells = done.edits.cells
    rows, columns = cells.rows, cells.columns
    here = rows, columns - done.edits.window.start
    made = np.ones(len(rows), np.float32) if done.made is None else done.made[here].astype(np.float32)
    read = acts[rows, columns], after.acts[rows, columns]
    return _Cells(cells, (made, amounts[here], cells.lengths, after.lengths[rows], *read))


def _relative(changes: Floats, lengths: Floats) -> Floats:
    """Lengths of changes by those of their rows; 0 where a row has none."""
    return np.divide(changes, lengths, out=np.zeros_like(lengths), where=lengths > 0)


def _fitted(sums: Doubles, shape: tuple[int, ...]) -> Doubles:
    """The sums with room for a shape, itself or as much more as is needed."""
    grown = tuple(map(max, sums.shape, shape))
    if grown == sums.shape:
        return sums
    return np.pad(sums, [(0, more - size) for more, size in zip(grown, sums.shape, strict=True)])


def _intervention(sums: Doubles) -> InterventionReceipt:
    rows = int(sums[_ROWS])
    relative, before, after = (sums[_RELATIVE:] / max(rows, 1)).tolist()
    return InterventionReceipt(rows, int(sums[_CHANGED]), relative, before, after)


def _hook_point(point: HookPoint, sums: Doubles) -> HookPointReceipt:
    changed = int(sums[_POINT_CHANGED])
    mean = float(sums[_POINT_RELATIVE] / max(changed, 1))
    return HookPointReceipt(str(point), changed, mean, float(sums[_POINT_LARGEST]))
