"""What steering did, written down row by row as the plainest hooks do it."""

from __future__ import annotations

from statistics import fmean

import pytest
from torch import Tensor

from steerd.engine.request import GenerationRequest
from steerd.host.hook_point import HookPoint
from steerd.steering.intervention import Intervention
from steerd.steering.loaded_saes import LoadedSaes
from steerd.steering.receipt import HookPointReceipt, InterventionReceipt, Receipt

# Rows of other shapes of batch differ by rounding.
TOLERANCE = 1e-4
FORWARD = ("resid_pre", "attn_out", "mlp_out", "resid_post")


class PlainLedger:
    """Every edit of every row of one request."""

    def __init__(self, request: GenerationRequest, saes: LoadedSaes) -> None:
        self._numbered = request.steering.numbered
        points = {saes.hook_point(edit.target) for edit in self._numbered}
        self._points = sorted(points, key=lambda point: (point.layer, FORWARD.index(point.site)))
        self._edits: list[tuple[int, int, tuple[float, float, float]]] = []
        self._rows: list[tuple[HookPoint, int, float]] = []

    def edit(
        self, intervention: Intervention, position: int, relative: float, before: float, after: float
    ) -> None:
        """What one intervention added to a row, and its target's activation before and after all of them."""
        number = next(n for n, other in enumerate(self._numbered) if other is intervention)
        self._edits.append((number, position, (relative, before, after)))

    def row(self, point: HookPoint, position: int, x: Tensor, result: Tensor) -> None:
        """What all of them made of a row."""
        self._rows.append((point, position, float((result - x).norm() / x.norm())))

    def receipt(self, num_rows: int) -> Receipt:
        """The receipt that the first rows come to."""
        return Receipt(
            tuple(self._intervention(number, num_rows) for number in range(len(self._numbered))),
            tuple(self._hook_point(point, num_rows) for point in self._points),
        )

    def _intervention(self, number: int, num_rows: int) -> InterventionReceipt:
        edits = [done for edit, position, done in self._edits if edit == number and position < num_rows]
        if not edits:
            return InterventionReceipt(0, 0, 0.0, 0.0, 0.0)
        changed = sum(relative > 0 for relative, _, _ in edits)
        return InterventionReceipt(len(edits), changed, *map(fmean, zip(*edits, strict=True)))

    def _hook_point(self, point: HookPoint, num_rows: int) -> HookPointReceipt:
        here = [change for where, position, change in self._rows if where == point and position < num_rows]
        changes = [change for change in here if change > 0]
        mean, largest = (fmean(changes), max(changes)) if changes else (0.0, 0.0)
        return HookPointReceipt(str(point), len(changes), mean, largest)


def assert_same_receipt(found: Receipt, expected: Receipt) -> None:
    """Counts exactly, means to rounding."""

    def near(value: float) -> object:
        return pytest.approx(value, abs=TOLERANCE, rel=1e-3)

    assert len(found.interventions) == len(expected.interventions)
    for one, other in zip(found.interventions, expected.interventions, strict=True):
        assert (one.rows, one.rows_changed) == (other.rows, other.rows_changed)
        assert one.mean_relative_norm == near(other.mean_relative_norm)
        assert (one.mean_before, one.mean_after) == (near(other.mean_before), near(other.mean_after))
    assert [part.hook_point for part in found.hook_points] == [
        part.hook_point for part in expected.hook_points
    ]
    for here, there in zip(found.hook_points, expected.hook_points, strict=True):
        assert (here.hook_point, here.rows_changed) == (there.hook_point, there.rows_changed)
        assert here.mean_relative_norm == near(there.mean_relative_norm)
        assert here.max_relative_norm == near(there.max_relative_norm)
