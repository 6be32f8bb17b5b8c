"""What the features of each running request did so far: arrays over all requests, by their slots."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from steerd.engine.events import ActiveEntries, Ints, StepReport
from steerd.engine.watch_list import WatchList

_LARGEST_ACTIVE_OVER = 3
_MAX_REQUESTS = 4096  # more than can run: those beyond are of ends that were dropped


@dataclass(frozen=True, slots=True)
class RequestFeatures:
    """What features did over one request, on its ordinary rows.

    By feature of the list [watched]: `largest` activation, and rows `active` and `over` the threshold. `top`
    has, by SAE, the largest activation of every feature that was active on its sampled rows.
    """

    watch: WatchList
    largest: NDArray[np.float64]
    active: Ints
    over: Ints
    top: Mapping[str, Mapping[int, float]]


class RequestTallies:
    """Gathers steps until a request's numbers are taken."""

    def __init__(self) -> None:
        self._watch = WatchList()
        self._slots: OrderedDict[str, int] = OrderedDict()
        self._free: list[int] = []
        self._top: dict[str, dict[str, dict[int, float]]] = {}  # by request and SAE
        self._numbers = np.zeros((_LARGEST_ACTIVE_OVER, 0, 0))  # [3, slots, watched]

    def add(self, report: StepReport) -> None:
        """Count one step."""
        if report.watched.watch is not self._watch:
            self._change_watch(report.watched.watch)
        slots = np.array([self._slot(request_id) for request_id in report.request_ids], dtype=np.int64)
        active = report.watched.active
        self._add_watched(active, slots[row_owners(active.rows, report.first_rows)])
        for sae, sampled in report.sampled.items():
            owners = row_owners(sampled.active.rows, report.first_rows)
            self._add_top(sae, sampled.active, [report.request_ids[owner] for owner in owners])

    def take(self, request_id: str) -> RequestFeatures | None:
        """The numbers of a request that ended; None when it never ran."""
        slot = self._slots.pop(request_id, None)
        if slot is None:
            return None
        self._free.append(slot)
        largest, active, over = self._numbers[:, slot].copy()
        return RequestFeatures(
            watch=self._watch,
            largest=largest,
            active=active.astype(np.int64),
            over=over.astype(np.int64),
            top=self._top.pop(request_id, {}),
        )

    def _add_watched(self, entries: ActiveEntries, slots: Ints) -> None:
        mine = slots >= 0
        at = slots[mine], entries.features[mine]
        values = entries.values[mine]
        largest, active, over = self._numbers
        np.maximum.at(largest, at, values)
        np.add.at(active, at, 1)
        np.add.at(over, at, values > self._watch.thresholds[at[1]])

    def _add_top(self, sae: str, active: ActiveEntries, request_ids: list[str]) -> None:
        for request_id, feature, value in zip(
            request_ids, active.features.tolist(), active.values.tolist(), strict=True
        ):
            if request_id:
                top = self._top.setdefault(request_id, {}).setdefault(sae, {})
                if value > top.get(feature, 0.0):
                    top[feature] = value

    def _slot(self, request_id: str) -> int:
        """The request's slot, given to it now unless it has one; -1 for a baseline."""
        if not request_id:
            return -1
        if request_id not in self._slots:
            if len(self._slots) == _MAX_REQUESTS:
                forgotten, slot = self._slots.popitem(last=False)
                self._top.pop(forgotten, None)
                self._free.append(slot)
            slot = self._free.pop() if self._free else len(self._slots)
            self._slots[request_id] = slot
            self._clear(slot)
        return self._slots[request_id]

    def _clear(self, slot: int) -> None:
        _, num_slots, width = self._numbers.shape
        if slot == num_slots:
            room = np.zeros((_LARGEST_ACTIVE_OVER, max(num_slots, 16), width))
            self._numbers = np.concatenate([self._numbers, room], axis=1)
        self._numbers[:, slot] = 0

    def _change_watch(self, watch: WatchList) -> None:
        """Go on with another list; features in both keep their numbers."""
        positions = {ref: position for position, ref in enumerate(self._watch.refs)}
        kept = [new for new, ref in enumerate(watch.refs) if ref in positions]
        moved = np.zeros((*self._numbers.shape[:2], len(watch)))
        moved[:, :, kept] = self._numbers[:, :, [positions[watch.refs[new]] for new in kept]]
        self._numbers, self._watch = moved, watch


def row_owners(rows: Ints, first_rows: Ints) -> Ints:
    """The index of the request that each row of a step belongs to."""
    return np.searchsorted(first_rows, rows, side="right") - 1
