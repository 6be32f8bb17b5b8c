"""Whose rows a step has, in tensors that stay from step to step."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from steerd.steering.apply import Rows
from steerd.steering.room import PADDING_SLOT, Room

_SLOTS, _STARTS, _REQUEST_SLOTS, _REQUEST_LASTS = range(4)


class StepRows:
    """What tests and lanes have to know of the rows; `bits` [rows] are those of the tests that are on.

    `version` grows when that moves.
    """

    def __init__(self, device: torch.device, room: Room | None = None) -> None:
        self.version = 0
        self._device = device
        self._allocate(1 if room is None else room.rows)

    def write(
        self,
        slots: NDArray[np.int64],
        starts: NDArray[np.int64],
        ordinary: NDArray[np.bool_],
        padding: int = 0,
    ) -> None:
        """Take the layout of a step: slots and first rows by request, `ordinary` by row; then rows of nobody.

        Only with a Room there may be such `padding`.
        """
        if padding:
            slots = np.append(slots, np.full(padding, PADDING_SLOT))
            starts = np.append(starts, np.arange(len(ordinary), len(ordinary) + padding))
            ordinary = np.append(ordinary, np.zeros(padding, dtype=np.bool_))
        num_rows, num_requests = len(ordinary), len(slots)
        if num_rows > len(self._staged_ordinary):
            self._allocate(2 * num_rows)
        lengths = np.diff(starts, append=num_rows)
        self._staged[_SLOTS, :num_rows] = np.repeat(slots, lengths)
        self._staged[_STARTS, :num_rows] = np.repeat(starts, lengths)
        self._staged[_REQUEST_SLOTS, :num_requests] = slots
        self._staged[_REQUEST_LASTS, :num_requests] = starts + lengths - 1
        self._staged_ordinary[:num_rows] = ordinary
        if self._device.type != "cpu":
            self._values.copy_(torch.from_numpy(self._staged), non_blocking=True)
            self._ordinary.copy_(torch.from_numpy(self._staged_ordinary), non_blocking=True)
        values = self._values
        self.rows = Rows(
            slots=values[_SLOTS, :num_rows],
            starts=values[_STARTS, :num_rows],
            numbers=self._numbers[:num_rows],
            ordinary=self._ordinary[:num_rows],
            request_slots=values[_REQUEST_SLOTS, :num_requests],
            request_lasts=values[_REQUEST_LASTS, :num_requests],
        )
        self.bits = self._bits[:num_rows]

    def begin(self) -> None:
        """No test has been run in the coming forward."""
        self._bits.zero_()

    def _allocate(self, rows: int) -> None:
        self.version += 1
        self._staged = np.zeros((4, rows), dtype=np.int64)
        self._staged_ordinary = np.zeros(rows, dtype=np.bool_)
        # On the CPU the tensors are the arrays themselves.
        self._values = torch.from_numpy(self._staged).to(self._device)
        self._ordinary = torch.from_numpy(self._staged_ordinary).to(self._device)
        self._numbers = torch.arange(rows, device=self._device)
        self._bits = torch.zeros(rows, dtype=torch.int64, device=self._device)
