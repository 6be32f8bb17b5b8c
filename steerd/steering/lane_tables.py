"""The tests and lanes of the running requests at one hook point, and what state they are in."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import torch
from torch import Tensor

from steerd.steering.apply import Lanes, Rows, Tests, gates, open_lanes, run_tests
from steerd.steering.coverage import Bools
from steerd.steering.lanes import Lane, ResolvedTest
from steerd.steering.room import Room

MAX_CLAUSES = 4
MAX_TESTS = 62
"""Most tests of one request: each has a bit of an int64, and one bit is no test's."""

_NEVER = 1 << MAX_TESTS
_NO_BOUND = 1 << 62

# What a test or a lane that does not exist has: never on, never open.
_TESTS = {
    "column": torch.tensor(0),
    "above": torch.tensor(inf),
    "release_below": torch.tensor(-inf),
    "every_row": torch.tensor(False),
    "bit": torch.tensor(0),
    "on": torch.tensor(False),
}
_LANES = {
    "needs": torch.tensor([_NEVER] * MAX_CLAUSES),
    "budget": torch.tensor(_NO_BOUND),
    "used": torch.tensor(0),
    "column": torch.tensor(0),
    "keeps_length": torch.tensor(False),
}


class LaneTables:
    """By slot, what each running request tests here, what waits for it, and how far both went.

    `put` when a request starts and `clear` when it ends; `begin` and `cover` with each layout of a step;
    `run_tests` and `open` in the forward. The tensors stay from step to step; they grow with the requests.
    With a Room, tests and lanes that were there once are run in every step, and `version` grows when that or
    the place of the tensors changes.
    """

    def __init__(self, device: torch.device, room: Room | None = None) -> None:
        self._device = device
        self.version = 0
        self.keeps_tests = self.keeps_lanes = False
        """Whether they have a part in every step from now on, be there none."""
        self._is_fixed = room is not None
        slots, rows = (room.requests + 1, room.rows) if room is not None else (0, 0)
        self._tests = _grown({}, _TESTS, slots, 0, device)  # each [slots, tests]
        # Each [slots, lanes], but needs [slots, lanes, clauses].
        self._lanes = _grown({}, _LANES, slots, 0, device)
        self._covered = torch.zeros(rows, 0, dtype=torch.bool, device=device)  # [rows, lanes]

    def put(
        self, slot: int, tests: Sequence[ResolvedTest], lanes: Sequence[Lane], *, num_kept: int = 0
    ) -> None:
        """Take what a request has here; all but its first `num_kept` tests are at their start."""
        self._fit(slot + 1, len(tests), len(lanes))
        on = self._tests["on"][slot, :num_kept].clone()
        self.clear(slot)
        self._tests["on"][slot, :num_kept] = on
        for number, resolved in enumerate(tests):
            test = resolved.test
            self._tests["column"][slot, number] = resolved.column
            self._tests["above"][slot, number] = test.above
            self._tests["release_below"][slot, number] = test.release_below
            self._tests["every_row"][slot, number] = test.include_special_tokens
            self._tests["bit"][slot, number] = resolved.bit
        for number, lane in enumerate(lanes):
            needs = torch.tensor(lane.needs, device=self._device)
            self._lanes["needs"][slot, number, : len(needs)] = needs
            self._lanes["budget"][slot, number] = lane.budget or _NO_BOUND
            self._lanes["column"][slot, number] = 0 if lane.column is None else lane.column + 1
            self._lanes["keeps_length"][slot, number] = lane.keeps_length

    def clear(self, slot: int) -> None:
        """Forget what a request has here, if anything."""
        for tables, nothing in ((self._tests, _TESTS), (self._lanes, _LANES)):
            for name, value in nothing.items():
                tables[name][slot : slot + 1] = value.to(self._device)

    def begin(self, num_slots: int, num_rows: int) -> None:
        """Forget which rows the edits of the step before were for."""
        self._fit(num_slots, 0, 0)
        if num_rows > len(self._covered):
            self._covered = self._covered.new_zeros(2 * num_rows, self._covered.shape[1])
            self.version += 1
        self._covered.zero_()

    def cover(self, first_row: int, rows: Bools, lane: int) -> None:
        """The consecutive rows that an edit is for."""
        here = slice(first_row, first_row + len(rows))
        self._covered[here, lane] = torch.from_numpy(rows).to(self._device)

    def run_tests(self, acts: Tensor, rows: Rows, bits: Tensor) -> None:
        """Run the tests of all rows on acts [rows, columns], and set in `bits` [rows] those that are on."""
        table = self._tests
        tests = Tests(table["column"], table["above"], table["release_below"], table["every_row"])
        on = run_tests(acts, tests, table["on"], rows)  # [rows, tests]
        table["on"].index_copy_(0, rows.request_slots, on[rows.request_lasts])
        bits |= (on.long() << table["bit"][rows.slots]).sum(dim=1)

    def open(self, bits: Tensor, rows: Rows) -> Tensor:
        """Whether each lane of a row's request is open there, [rows, lanes]."""
        table = self._lanes
        lanes = Lanes(table["needs"], table["budget"])
        is_open, used = open_lanes(bits, lanes, table["used"], self._covered[: len(bits)], rows)
        table["used"].index_copy_(0, rows.request_slots, used[rows.request_lasts])
        return is_open

    def gates(self, is_open: Tensor, rows: Rows, num_columns: int) -> Tensor:
        """Whether the edit in each column is made, [rows, num_columns]."""
        return gates(is_open, self._lanes["column"][rows.slots], num_columns)

    def keeps_length(self, is_open: Tensor, rows: Rows) -> Tensor:
        """Whether a row is to keep its length for the sake of an open lane, [rows]."""
        return (is_open & self._lanes["keeps_length"][rows.slots]).any(dim=1)

    def _fit(self, slots: int, tests: int, lanes: int) -> None:
        num_slots, num_tests = self._tests["column"].shape
        num_lanes = self._covered.shape[1]
        if slots > num_slots or tests > num_tests or lanes > num_lanes:
            self.version += 1
        self.keeps_tests |= self._is_fixed and tests > 0
        self.keeps_lanes |= self._is_fixed and lanes > 0
        if slots > num_slots or tests > num_tests:
            more = max(slots, num_slots), max(tests, num_tests)
            self._tests = _grown(self._tests, _TESTS, *more, self._device)
        if slots > num_slots or lanes > num_lanes:
            more = max(slots, num_slots), max(lanes, num_lanes)
            self._lanes = _grown(self._lanes, _LANES, *more, self._device)
            covered = self._covered
            self._covered = covered.new_zeros(len(covered), more[1])
            self._covered[:, :num_lanes] = covered


def _grown(
    tables: dict[str, Tensor], nothing: dict[str, Tensor], slots: int, numbers: int, device: torch.device
) -> dict[str, Tensor]:
    """The tables with room for so many slots and numbers, `nothing` in what is new."""
    grown = {}
    for name, value in nothing.items():
        grown[name] = value.to(device).expand(slots, numbers, *value.shape).clone()
        if name in tables:
            before = tables[name]
            grown[name][: before.shape[0], : before.shape[1]] = before
    return grown
