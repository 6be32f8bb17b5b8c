"""Steering in its plainest form: a whole encode of every row, then one edit after the other, row by row.

Written from the words of the wire contract. It shares nothing with steerd.steering but the data, so that a
mistake there is not made here as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel
from steerd.selftest.naive_rows import NaiveRows
from steerd.selftest.probes import Probe
from steerd.steering.intervention import (
    Ablate,
    Add,
    Direction,
    FeatureRef,
    Intervention,
    Limit,
    Operation,
    Reconstruct,
    Scale,
    Set,
    WholeSae,
)
from steerd.steering.loaded_saes import LoadedSaes


@contextmanager
def steered_naively(host: HostModel, saes: LoadedSaes, probe: Probe) -> Iterator[None]:
    """Inside the block a forward of all rows of the probe is steered as it says."""
    by_point: dict[HookPoint, list[Intervention]] = {}
    for intervention in probe.interventions:
        point = saes.hook_point(intervention.target)
        by_point.setdefault(point, []).append(intervention)
    hooks = {point: NaiveHook(host, saes, probe, here) for point, here in by_point.items()}
    handles = [host.attach(point, hook) for point, hook in hooks.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class NaiveHook:
    """The edits of one hook point on a forward of all rows of a probe."""

    def __init__(
        self, host: HostModel, saes: LoadedSaes, probe: Probe, interventions: Sequence[Intervention]
    ) -> None:
        tested = [test.target for edit in interventions if edit.condition for test in edit.condition.tests]
        targets = [*(edit.target for edit in interventions), *tested]
        names = {target.sae for target in targets if not isinstance(target, Direction)}
        self._saes = {name: saes.get(name).sae for name in names}
        self._interventions = interventions
        self._naive_rows = NaiveRows(probe, host.special_token_ids)

    def __call__(self, resid: Tensor) -> Tensor:
        rows = resid.float()  # [rows, d_model]
        acts = {name: sae.encode(rows) for name, sae in self._saes.items()}  # [rows, d_sae]
        edits = [(edit, self._strengths(edit, rows, acts)) for edit in self._interventions]
        edited = [
            self._edited(
                [(edit, strengths[position]) for edit, strengths in edits],
                x,
                {name: of_sae[position] for name, of_sae in acts.items()},
            )
            for position, x in enumerate(rows)
        ]
        return torch.stack(edited).to(resid.dtype)

    def _strengths(self, edit: Intervention, rows: Tensor, acts: dict[str, Tensor]) -> list[float]:
        """How strong an edit is on each row."""
        tests = edit.condition.tests if edit.condition else ()
        seen = {
            test: [
                self._z(test.target, x, {name: a[n] for name, a in acts.items()}) for n, x in enumerate(rows)
            ]
            for test in tests
        }
        return self._naive_rows.strengths(edit, seen)

    def _edited(
        self, edits: Sequence[tuple[Intervention, float]], x: Tensor, acts: dict[str, Tensor]
    ) -> Tensor:
        """One row [d_model] with edits, each by its strength; `acts` [d_sae] are the row's own."""
        result, keeps_length = x, False
        for edit, strength in edits:
            if strength > 0:
                result = result + strength * self._added(edit, x, acts)
                keeps_length |= edit.preserve_norm
        return result * (x.norm() / result.norm()) if keeps_length else result

    def _added(self, edit: Intervention, x: Tensor, acts: dict[str, Tensor]) -> Tensor:
        """What the edit adds to a row at full strength, [d_model]."""
        target = edit.target
        if isinstance(target, WholeSae):
            return self._saes[target.sae].decode(acts[target.sae]) - x
        return difference(edit.operation, self._z(target, x, acts)) * self._d(target, x)

    def _z(self, target: FeatureRef | Direction, x: Tensor, acts: dict[str, Tensor]) -> float:
        """How active a feature is on a row, or how far the row reaches in a direction."""
        if isinstance(target, Direction):
            return float(x @ self._d(target, x))
        return float(acts[target.sae][target.index])

    def _d(self, target: FeatureRef | Direction, x: Tensor) -> Tensor:
        if isinstance(target, Direction):
            return torch.tensor(target.values, device=x.device)
        return self._saes[target.sae].W_dec[target.index]


def difference(operation: Operation, z: float) -> float:
    """What is added along the direction where the activation is z."""
    match operation:
        case Add(strength):
            return strength
        case Set(value, only_if_active):
            return 0.0 if only_if_active and z <= 0 else value - z
        case Scale(factor):
            return (factor - 1) * z
        case Ablate():
            return -z
        case Limit(low, high):
            return min(max(z, low), high) - z
        case Reconstruct():
            raise AssertionError("a reconstruction is of a whole SAE, not along one direction")
