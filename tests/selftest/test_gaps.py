"""How far receipts and firings are from what they should be."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest

from steerd.selftest.gaps import fired_gap, receipt_gap
from steerd.steering.receipt import HookPointReceipt, InterventionReceipt, Receipt, TriggerReceipt

EDIT = InterventionReceipt(10, 8, 0.5, 4.0, 2.0)
POINT = HookPointReceipt("blocks.1.hook_resid_post", 8, 0.25, 0.5)
EXPECTED = Receipt((EDIT,), (POINT,))


@pytest.mark.parametrize(
    ("found", "gap"),
    [
        (EXPECTED, 0.0),
        (replace(EXPECTED, interventions=(replace(EDIT, rows=9),)), 0.1),
        (replace(EXPECTED, interventions=(replace(EDIT, rows_changed=6),)), 0.25),
        (replace(EXPECTED, interventions=(replace(EDIT, rows_changed=9),)), 0.0),
        (replace(EXPECTED, interventions=(replace(EDIT, mean_relative_norm=0.6),)), 0.2),
        (replace(EXPECTED, interventions=(replace(EDIT, mean_before=5.0),)), 0.25),
        (replace(EXPECTED, interventions=(replace(EDIT, mean_after=1.0),)), 0.25),
        (replace(EXPECTED, hook_points=(replace(POINT, rows_changed=4),)), 0.5),
        # As much in all, on rows of which rounding decides whether they are changed.
        (replace(EXPECTED, hook_points=(replace(POINT, rows_changed=10, mean_relative_norm=0.2),)), 0.0),
        (replace(EXPECTED, hook_points=(replace(POINT, max_relative_norm=0.4),)), 0.2),
        (replace(EXPECTED, hook_points=(replace(POINT, hook_point="elsewhere"),)), inf),
        (replace(EXPECTED, interventions=(EDIT, EDIT)), inf),
        (replace(EXPECTED, hook_points=()), inf),
    ],
)
def test_a_gap_is_a_share_of_what_is_expected(found: Receipt, gap: float) -> None:
    assert float(receipt_gap(found, EXPECTED, [100.0]).max()) == pytest.approx(gap)


def test_activations_near_zero_are_held_against_the_length_of_rows() -> None:
    nothing = Receipt((replace(EDIT, mean_before=0.0, mean_after=0.0),))
    rounding = Receipt((replace(EDIT, mean_before=1e-5, mean_after=0.0),))

    assert float(receipt_gap(rounding, nothing, [100.0]).max()) == pytest.approx(1e-4)


def test_firings_are_compared_by_name_and_position_and_with_the_receipt() -> None:
    found = frozenset({("a", 3), ("a", 7), ("b", 7)})
    receipt = Receipt(fired=(TriggerReceipt("a", "flag", "", 2, 3), TriggerReceipt("b", "flag", "", 1, 7)))

    assert float(fired_gap(found, receipt, found)) == 0
    assert float(fired_gap(found, receipt, found | {("b", 9)})) == 0.25
    assert float(fired_gap(found, Receipt(fired=receipt.fired[:1]), found)) == inf
    assert float(fired_gap(frozenset(), Receipt(), frozenset())) == 0
