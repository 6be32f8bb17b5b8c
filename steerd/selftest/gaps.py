"""How far what the engine tells of its steering is from what it should be."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import torch
from torch import Tensor

from steerd.steering.receipt import HookPointReceipt, InterventionReceipt, Receipt

_SMALLEST_SHARE = 1e-3  # of a row's length: what is less is measured by it


def receipt_gap(found: Receipt, expected: Receipt, lengths: Sequence[float]) -> Tensor:
    """How far each number of a receipt is off, as a share of what it should be; of triggers nothing.

    `lengths` are those of the rows that each intervention was made on.
    """
    points = {point.hook_point: point for point in found.hook_points}
    if len(found.interventions) != len(expected.interventions) or len(points) != len(expected.hook_points):
        return torch.tensor([inf])
    gaps = [0.0]
    for one, other, length in zip(found.interventions, expected.interventions, lengths, strict=True):
        gaps += _intervention(one, other, length)
    for point in expected.hook_points:
        gaps += _hook_point(points[point.hook_point], point) if point.hook_point in points else [inf]
    return torch.tensor(gaps)


def fired_gap(
    found: frozenset[tuple[str, int]], receipt: Receipt, expected: frozenset[tuple[str, int]]
) -> Tensor:
    """The share of firings, names and positions, that are only in one of both; infinite where the receipt
    tells others than were told before."""
    told = {part.name: (part.times, part.first_position) for part in receipt.fired}
    names = {name for name, _ in found}
    positions = {name: [position for each, position in found if each == name] for name in names}
    if told != {name: (len(at), min(at)) for name, at in positions.items()}:
        return torch.tensor([inf])
    return torch.tensor([len(found ^ expected) / max(len(found | expected), 1)])


def _intervention(found: InterventionReceipt, expected: InterventionReceipt, length: float) -> list[float]:
    usual = max(abs(expected.mean_before), abs(expected.mean_after), _SMALLEST_SHARE * length)
    return [
        _gap(found.rows, expected.rows, 1),
        _shortfall(found.rows_changed, expected.rows_changed),
        _gap(found.mean_relative_norm, expected.mean_relative_norm, _SMALLEST_SHARE),
        _gap(found.mean_before, expected.mean_before, usual),
        _gap(found.mean_after, expected.mean_after, usual),
    ]


def _hook_point(found: HookPointReceipt, expected: HookPointReceipt) -> list[float]:
    return [
        _shortfall(found.rows_changed, expected.rows_changed),
        _gap(_total(found), _total(expected), _SMALLEST_SHARE),
        _gap(found.max_relative_norm, expected.max_relative_norm, _SMALLEST_SHARE),
    ]


def _total(point: HookPointReceipt) -> float:
    return point.rows_changed * point.mean_relative_norm


def _shortfall(found: int, expected: int) -> float:
    """Of rows that were surely changed; those where rounding decides may count besides."""
    return max(expected - found, 0) / max(expected, 1)


def _gap(found: float, expected: float, unit: float) -> float:
    """In units of what is expected, or of `unit` if that is more."""
    if found == expected:
        return 0.0
    unit = max(abs(expected), unit)
    return abs(found - expected) / unit if unit > 0 else inf
