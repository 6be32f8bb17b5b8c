"""What the edits of the running requests did so far: for their receipts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from steerd.engine.events import Floats
from steerd.engine.readings import DoneReadings, EditReadings, StepReadings
from steerd.host.hook_point import HookPoint
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

    Those of its edits are [5, slots, edits], those of each hook point [3, slots].
    """

    def __init__(self) -> None:
        self._edits = np.zeros((5, 0, 0))
        self._points: dict[HookPoint, Doubles] = {}
        self._overlaps: dict[int, Counter[Target]] = {}

    def start(self, wishes: RequestWishes) -> None:
        """Begin counting for a request whose slot may have been another's."""
        slot = wishes.slot
        self._edits = _fitted(self._edits, (5, slot + 1, len(wishes.numbered)))
        self._edits[:, slot] = 0
        for hook_point in {edit.hook_point for edit in wishes.numbered}:
            self._points.setdefault(hook_point, np.zeros((3, 0)))
        for hook_point, sums in self._points.items():
            self._points[hook_point] = _fitted(sums, (3, self._edits.shape[1]))
            self._points[hook_point][:, slot] = 0
        self._overlaps[slot] = Counter()

    def add(self, readings: StepReadings) -> None:
        """Count what one step edited."""
        # Rows that are not finite make their own request fail, soon.
        with np.errstate(all="ignore"):
            for hook_point, after in readings.edits.items():
                for done in after.done:
                    if done.amounts is not None:
                        self._add_cells(done, done.amounts, readings.acts[hook_point], after)
                    self._add_reconstructions(done, after)
                self._add_rows(self._points[hook_point], after, readings.plan.layout)

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
                _hook_point(point, self._points[point][:, wishes.slot])
                for point in sorted(points, key=lambda point: (point.depth, point.site))
            ),
        )

    def _add_cells(self, done: DoneReadings, amounts: Floats, acts: Floats, after: EditReadings) -> None:
        cells = done.edits.cells
        rows, columns = cells.rows, cells.columns
        here = rows, columns - done.edits.window.start
        added = amounts[here]
        made = np.ones_like(added) if done.made is None else done.made[here].astype(np.float32)
        relative = _relative(np.abs(added) * cells.lengths, after.lengths[rows])
        values = acts[rows, columns] * made, after.acts[rows, columns] * made
        sums = np.stack([made, added != 0, relative, *values])  # [5, cells]
        if len(cells.starts) < len(rows):  # some edit has several rows
            sums = np.add.reduceat(sums, cells.starts, axis=1, dtype=np.float64)
        self._edits[:, cells.slots, cells.numbers] += sums
        for shared in cells.shared:
            steered = rows[shared.cells][made[shared.cells] > 0]
            self._overlaps[shared.slot][shared.target] += len(steered) - len(np.unique(steered))

    def _add_reconstructions(self, done: DoneReadings, after: EditReadings) -> None:
        edits = done.edits
        parts = zip(edits.cells.wholes, edits.reconstructions, done.reconstructions, strict=True)
        for (slot, number), part, (factors, changes) in parts:
            relative = _relative(changes, after.lengths[part.rows.cpu().numpy()])
            sums = np.count_nonzero(factors), np.count_nonzero(changes), relative.sum(dtype=np.float64)
            self._edits[: _RELATIVE + 1, slot, number] += sums

    def _add_rows(self, point: Doubles, after: EditReadings, layout: StepLayout) -> None:
        largest = _relative(after.changes, after.lengths)
        sums = np.stack([after.changes > 0, largest])  # [2, rows]
        if len(layout.slots) < len(largest):  # some request has several rows
            sums = np.add.reduceat(sums, layout.starts, axis=1, dtype=np.float64)
            largest = np.maximum.reduceat(largest, layout.starts)
        point[:_POINT_LARGEST, layout.slots] += sums
        point[_POINT_LARGEST, layout.slots] = np.maximum(point[_POINT_LARGEST, layout.slots], largest)


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
