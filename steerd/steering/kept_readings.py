"""What hooks read in a step, side by side in storage that stays, so that one copy brings all of it.

The tensors that a recorded step makes on its way are known to the recording alone, so each hook ends by
copying what it read to here. It leaves the number of the step beside it: a hook that had no part in a step is
found out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from steerd.host.hook_point import HookPoint
from steerd.steering.room import Room

_MATRICES, _VECTORS = 5, 3
_LAST_NUMBER = 1 << 24  # float32 holds every whole number up to it


@dataclass(frozen=True, slots=True)
class KeptPoint:
    """The readings of one hook point in a step; what no edit needed is not written.

    `acts` and `acts_after` all edits [rows, columns]; by edits asked for and demanded, the `amounts` added
    [rows, columns], and for the former whether they were `made`, 0 or 1; the `lengths` of the rows and of
    their `changes` [rows]; the number of the step [rows].
    """

    acts: Tensor
    acts_after: Tensor
    amounts: Tensor
    made: Tensor
    demanded_amounts: Tensor
    lengths: Tensor
    changes: Tensor
    step: Tensor


class KeptReadings:
    """By hook point, in one tensor; `version` grows when it moves."""

    def __init__(self, room: Room, d_model: int, device: torch.device) -> None:
        self.version = 0
        self._room = room
        self._d_model = d_model
        self._device = device
        self._widths: dict[HookPoint, int] = {}
        self._starts: dict[HookPoint, int] = {}
        self._rows: dict[HookPoint, Tensor] = {}
        self._step = 0
        self.step = torch.zeros(1, device=device)
        """The number of the step under way, [1]."""
        self._allocate()

    def fit(self, widths: Mapping[HookPoint, int]) -> None:
        """Make room for these hook points, each of so many columns, and for no others."""
        if dict(widths) != self._widths:
            self._widths = dict(widths)
            self._allocate()

    def at(self, hook_point: HookPoint, num_rows: int) -> KeptPoint:
        """Where a hook is to leave its readings of so many rows."""
        return self._cut(self._values[:num_rows], hook_point)

    def rows_at(self, hook_point: HookPoint) -> Tensor:
        """Where a hook is to leave the rows themselves [room, d_model], for SAEs to read them afterwards."""
        if hook_point not in self._rows:
            self._rows[hook_point] = torch.zeros(self._room.rows, self._d_model, device=self._device)
            self.version += 1
        return self._rows[hook_point]

    def keeps_rows(self, hook_point: HookPoint) -> bool:
        """Whether `rows_at` was ever asked for there."""
        return hook_point in self._rows

    def begin(self) -> None:
        """A step is about to run."""
        self._step = self._step % _LAST_NUMBER + 1
        self.step.fill_(self._step)

    def fetch(self, num_rows: int, padding: int) -> dict[HookPoint, KeptPoint]:
        """What the hooks left in the step, of its first `num_rows` rows, on the CPU.

        Raises RuntimeError when one of them had no part in it.
        """
        run = slice(num_rows + padding)
        self._fetched[run].copy_(self._values[run], non_blocking=True)
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()
        for hook_point in self._widths:
            if not bool((self._cut(self._fetched[run], hook_point).step == self._step).all()):
                raise RuntimeError(f"the hook at {hook_point} did not run in a step")
        return {point: self._cut(self._fetched[:num_rows], point) for point in self._widths}

    def _allocate(self) -> None:
        self.version += 1
        first = 0
        for hook_point, width in self._widths.items():
            self._starts[hook_point] = first
            first += _MATRICES * width + _VECTORS
        self._values = torch.zeros(self._room.rows, first, device=self._device)
        self._fetched = torch.zeros(self._room.rows, first, pin_memory=self._device.type == "cuda")

    def _cut(self, values: Tensor, hook_point: HookPoint) -> KeptPoint:
        width, first = self._widths[hook_point], self._starts[hook_point]
        vectors = first + _MATRICES * width
        matrices = torch.split(values[:, first:vectors], width, dim=1)
        return KeptPoint(*matrices, *values[:, vectors : vectors + _VECTORS].unbind(dim=1))
