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
from steerd.selftest.naive_record import NaiveRecord
from steerd.selftest.naive_rows import NaiveRows
from steerd.selftest.probes import Probe
from steerd.steering.intervention import (
    Ablate,
    Add,
    Direction,
    FeatureRef,
    FeatureTest,
    Intervention,
    Limit,
    Operation,
    Reconstruct,
    Scale,
    Set,
    Target,
    WholeSae,
)
from steerd.steering.loaded_saes import LoadedSaes

Numbered = dict[int, Intervention]
"""Interventions of a probe, by their places in it."""


@contextmanager
def steered_naively(host: HostModel, saes: LoadedSaes, probe: Probe) -> Iterator[NaiveRecord]:
    """Inside the block a forward of all rows of the probe is steered as it says, and written down."""
    naive_rows = NaiveRows(probe, host.special_token_ids)
    record = NaiveRecord(probe, naive_rows)
    tests = {test for trigger in probe.triggers for test in trigger.condition.tests}
    edits: dict[HookPoint, Numbered] = {saes.hook_point(test.target): {} for test in tests}
    for number, intervention in enumerate(probe.interventions):
        edits.setdefault(saes.hook_point(intervention.target), {})[number] = intervention
    handles = []
    for point, here in edits.items():
        seen = [test for test in tests if saes.hook_point(test.target) == point]
        handles.append(host.attach(point, NaiveHook(saes, naive_rows, record, point, here, seen)))
    try:
        yield record
    finally:
        for handle in handles:
            handle.remove()


class NaiveHook:
    """The edits of one hook point on a forward of all rows of a probe, and what triggers test there."""

    def __init__(
        self,
        saes: LoadedSaes,
        naive_rows: NaiveRows,
        record: NaiveRecord,
        point: HookPoint,
        edits: Numbered,
        tests: Sequence[FeatureTest],
    ) -> None:
        conditions = [edit.condition for edit in edits.values() if edit.condition]
        tested = [test.target for test in (*tests, *(t for each in conditions for t in each.tests))]
        targets = [*(edit.target for edit in edits.values()), *tested]
        names = {target.sae for target in targets if not isinstance(target, Direction)}
        self._saes = {name: saes.get(name).sae for name in names}
        self._naive_rows = naive_rows
        self._record = record
        self._point = point
        self._edits = edits
        self._tests = tests

    def __call__(self, resid: Tensor) -> Tensor | None:
        """Policies edit what the request's own edits left."""
        rows = resid.float()  # [rows, d_model]
        acts = self._acts(rows)
        for test in self._tests:
            self._record.see(test, self._values(test.target, rows, acts))
        if not self._edits:
            return None
        strengths = {number: self._strengths(edit, rows, acts) for number, edit in self._edits.items()}
        own = {number: edit for number, edit in self._edits.items() if not _is_demanded(edit)}
        demanded = {number: edit for number, edit in self._edits.items() if _is_demanded(edit)}
        result, added = self._edited(own, rows, acts, strengths)
        if demanded:
            result, more = self._edited(demanded, result, self._acts(result), strengths)
            added |= more
        self._write_down(rows, acts, result, added)
        return result.to(resid.dtype)

    def _acts(self, rows: Tensor) -> dict[str, Tensor]:
        """By SAE, [rows, d_sae]."""
        return {name: sae.encode(rows) for name, sae in self._saes.items()}

    def _edited(
        self, edits: Numbered, rows: Tensor, acts: dict[str, Tensor], strengths: dict[int, list[float]]
    ) -> tuple[Tensor, dict[int, dict[int, Tensor]]]:
        """The rows [rows, d_model], and what each edit added, by its number and the row's."""
        added: dict[int, dict[int, Tensor]] = {number: {} for number in edits}
        result = []
        for position, x in enumerate(rows):
            row, keeps_length = x, False
            own = {name: of_sae[position] for name, of_sae in acts.items()}
            for number, edit in edits.items():
                if (strength := strengths[number][position]) > 0:
                    added[number][position] = strength * self._added(edit, x, own)
                    row = row + added[number][position]
                    keeps_length |= edit.preserve_norm
            result.append(row * (x.norm() / row.norm()) if keeps_length else row)
        return torch.stack(result), added

    def _write_down(
        self, rows: Tensor, acts: dict[str, Tensor], result: Tensor, added: dict[int, dict[int, Tensor]]
    ) -> None:
        acts_after = self._acts(result)
        lengths = rows.norm(dim=-1).tolist()
        for number, by_row in added.items():
            target = self._edits[number].target
            before, after = self._values(target, rows, acts), self._values(target, result, acts_after)
            for position, part in by_row.items():
                relative = float(part.norm()) / lengths[position]
                self._record.edit(number, lengths[position], relative, before[position], after[position])
        self._record.change(self._point, ((result - rows).norm(dim=-1) / rows.norm(dim=-1)).tolist())

    def _values(self, target: Target, rows: Tensor, acts: dict[str, Tensor]) -> list[float]:
        """What a target is on each row; 0 for a whole SAE."""
        if isinstance(target, WholeSae):
            return [0.0] * len(rows)
        return [
            self._z(target, x, {name: of_sae[n] for name, of_sae in acts.items()}) for n, x in enumerate(rows)
        ]

    def _strengths(self, edit: Intervention, rows: Tensor, acts: dict[str, Tensor]) -> list[float]:
        """How strong an edit is on each row."""
        tests = edit.condition.tests if edit.condition else ()
        seen = {test: self._values(test.target, rows, acts) for test in tests}
        return self._naive_rows.strengths(edit, seen)

    def _added(self, edit: Intervention, x: Tensor, acts: dict[str, Tensor]) -> Tensor:
        """What the edit adds to a row at full strength, [d_model]."""
        target = edit.target
        if isinstance(target, WholeSae):
            return self._saes[target.sae].decode(acts[target.sae]) - x
        amount = difference(edit.operation, self._z(target, x, acts))
        if _is_demanded(edit) and isinstance(target, FeatureRef) and not isinstance(edit.operation, Add):
            amount /= self._response(target)
        return amount * self._d(target, x)

    def _response(self, feature: FeatureRef) -> float:
        """What a policy's edit of a feature is divided by, to bring what is read all the way."""
        sae = self._saes[feature.sae]
        response = float((sae.W_enc[:, feature.index] * sae.W_dec[feature.index]).sum())
        return response if response >= 0.5 else 1.0

    def _z(self, target: FeatureRef | Direction, x: Tensor, acts: dict[str, Tensor]) -> float:
        """How active a feature is on a row, or how far the row reaches in a direction."""
        if isinstance(target, Direction):
            return float(x @ self._d(target, x))
        return float(acts[target.sae][target.index])

    def _d(self, target: FeatureRef | Direction, x: Tensor) -> Tensor:
        if isinstance(target, Direction):
            return torch.tensor(target.values, device=x.device)
        return self._saes[target.sae].W_dec[target.index]


def _is_demanded(edit: Intervention) -> bool:
    return edit.source.startswith("policy:")


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
