"""What the features of the running requests did so far: every request at once, a hook point at a time."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from steerd.engine.edit_tally import EditTally
from steerd.engine.events import FeatureUse, Floats
from steerd.engine.readings import StepReadings
from steerd.host.hook_point import HookPoint
from steerd.steering.intervention import FeatureRef, Target
from steerd.steering.receipt import Receipt
from steerd.steering.request_wishes import RequestWishes, SaeReads
from steerd.steering.step_layout import StepLayout


class PointTally:
    """Numbers of one hook point, each array [slots, columns]; a request reads its own slot and columns."""

    def __init__(self) -> None:
        self.largest = np.zeros((0, 0), dtype=np.float32)
        self.sums = np.zeros((0, 0), dtype=np.float64)
        self.active = np.zeros((0, 0), dtype=np.int64)

    def clear(self, slot: int) -> None:
        """Forget what a slot's former request did."""
        if slot < len(self.sums):
            for numbers in (self.largest, self.sums, self.active):
                numbers[slot] = 0

    def add(self, acts: Floats, layout: StepLayout) -> None:
        """Count the ordinary rows of one step."""
        columns = acts.shape[1]
        self.fit(int(layout.slots.max()) + 1, columns)
        counted = acts if layout.ordinary.all() else np.where(layout.ordinary[:, None], acts, 0)
        largest, sums, active = counted, counted, counted > 0
        if len(layout.slots) < len(acts):  # some request has several rows
            largest = np.maximum.reduceat(counted, layout.starts, axis=0)
            sums = np.add.reduceat(counted, layout.starts, axis=0)
            active = np.add.reduceat(active, layout.starts, axis=0, dtype=np.int64)
        here = layout.slots, slice(columns)
        self.largest[here] = np.maximum(self.largest[here], largest)
        self.sums[here] += sums
        self.active[here] += active

    def fit(self, slots: int, columns: int) -> None:
        """Make room for so many slots and columns."""
        rows, width = self.sums.shape
        if slots > rows or columns > width:
            shape = max(slots, rows), max(columns, width)
            for name in ("largest", "sums", "active"):
                before = getattr(self, name)
                grown = np.zeros(shape, dtype=before.dtype)
                grown[:rows, :width] = before
                setattr(self, name, grown)


class Tallies:
    """Sums, maxima and counts of every running request, by the slots of their wishes."""

    def __init__(self) -> None:
        self._points: dict[HookPoint, PointTally] = {}
        self._num_rows: dict[int, int] = {}
        self._edits = EditTally()

    def start(self, wishes: RequestWishes) -> None:
        """Begin counting for a request whose slot may have been another's."""
        self._num_rows[wishes.slot] = 0
        self._edits.start(wishes)
        for reads in wishes.by_sae:
            self._points.setdefault(reads.hook_point, PointTally())
        for point in self._points.values():
            point.clear(wishes.slot)

    def add(self, readings: StepReadings) -> None:
        """Count one step."""
        layout = readings.plan.layout
        ordinary = np.add.reduceat(layout.ordinary, layout.starts, dtype=np.int64)
        for slot, num_rows in zip(layout.slots.tolist(), ordinary.tolist(), strict=True):
            self._num_rows[slot] += num_rows
        for hook_point in layout.points & self._points.keys():
            self._points[hook_point].add(readings.acts[hook_point], layout)
        self._edits.add(readings)

    def uses(self, wishes: RequestWishes) -> tuple[FeatureUse, ...]:
        """What a request's features did, watched features first within each SAE."""
        steered = self._edits.steered_rows(wishes)
        return tuple(use for reads in wishes.by_sae for use in self._uses(wishes.slot, reads, steered))

    def receipt(self, wishes: RequestWishes) -> Receipt:
        """What a request's edits did."""
        return self._edits.receipt(wishes)

    def _uses(self, slot: int, reads: SaeReads, steered: Mapping[Target, int]) -> list[FeatureUse]:
        point, num_rows = self._points[reads.hook_point], max(self._num_rows[slot], 1)
        point.fit(slot + 1, max(reads.columns, default=0) + 1)  # it may have ended before its first step
        refs = [FeatureRef(reads.sae, feature) for feature in reads.features]
        return [
            FeatureUse(
                feature=ref,
                max_activation=float(point.largest[slot, column]),
                mean_activation=float(point.sums[slot, column] / num_rows),
                active_tokens=int(point.active[slot, column]),
                steered_tokens=steered.get(ref, 0),
            )
            for ref, column in zip(refs, reads.columns, strict=True)
        ]
