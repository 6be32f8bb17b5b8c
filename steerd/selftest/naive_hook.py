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
from steerd.steering.scope import Phase


@contextmanager
def steered_naively(host: HostModel, saes: LoadedSaes, probe: Probe) -> Iterator[None]:
    """Inside the block a forward of all rows of the probe is steered as it says."""
    by_point: dict[HookPoint, list[Intervention]] = {}
    for intervention in probe.interventions:
        point = HookPoint.parse(saes.printed_hook_point(intervention.target))
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
        targets = [edit.target for edit in interventions]
        names = {target.sae for target in targets if not isinstance(target, Direction)}
        self._saes = {name: saes.get(name).sae for name in names}
        self._edits = [(edit, strengths(edit, probe, host.special_token_ids)) for edit in interventions]

    def __call__(self, resid: Tensor) -> Tensor:
        rows = resid.float()  # [rows, d_model]
        acts = {name: sae.encode(rows) for name, sae in self._saes.items()}  # [rows, d_sae]
        edited = [
            self._edited(position, x, {name: of_sae[position] for name, of_sae in acts.items()})
            for position, x in enumerate(rows)
        ]
        return torch.stack(edited).to(resid.dtype)

    def _edited(self, position: int, x: Tensor, acts: dict[str, Tensor]) -> Tensor:
        """One row [d_model]; `acts` [d_sae] are its own."""
        result, keeps_length = x, False
        for edit, by_position in self._edits:
            if by_position[position] > 0:
                result = result + by_position[position] * self._added(edit, x, acts)
                keeps_length |= edit.preserve_norm
        return result * (x.norm() / result.norm()) if keeps_length else result

    def _added(self, edit: Intervention, x: Tensor, acts: dict[str, Tensor]) -> Tensor:
        """What the edit adds to a row at full strength, [d_model]."""
        match edit.target:
            case WholeSae(name):
                return self._saes[name].decode(acts[name]) - x
            case FeatureRef(name, index):
                return difference(edit.operation, float(acts[name][index])) * self._saes[name].W_dec[index]
            case Direction(values=values):
                d = torch.tensor(values, device=x.device)
                return difference(edit.operation, float(x @ d)) * d


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


def strengths(edit: Intervention, probe: Probe, special_ids: frozenset[int]) -> list[float]:
    """How strong an edit is on each row of the probe, 0 for not at all."""
    found: list[float] = []
    for position in range(len(probe.row_ids)):
        strength = _by_schedule(edit, _since(edit, probe, position))
        if not _in_scope(edit, probe, position, special_ids):
            strength = 0.0
        if edit.schedule.at_most and sum(earlier > 0 for earlier in found) >= edit.schedule.at_most:
            strength = 0.0
        found.append(strength)
    return found


def _since(edit: Intervention, probe: Probe, position: int) -> int:
    """Rows from the first of its phase."""
    return position - len(probe.prompt_ids) if edit.scope.phase is Phase.GENERATED else position


def _in_scope(edit: Intervention, probe: Probe, position: int, special_ids: frozenset[int]) -> bool:
    scope, token_id, length = edit.scope, probe.row_ids[position], len(probe.prompt_ids)
    in_prompt = position < length
    # A position below zero counts from the prompt's end.
    ranges = [
        (r.start % length if r.start < 0 else r.start, r.end % length if r.end and r.end < 0 else r.end)
        for r in scope.positions
    ]
    assert not scope.roles, "a text that is no chat has no roles"
    return (
        (scope.phase is Phase.ALL or in_prompt == (scope.phase is Phase.PROMPT))
        and (scope.include_special_tokens or token_id not in special_ids)
        and (scope.first_n == 0 or _since(edit, probe, position) < scope.first_n)
        and (scope.last_n == 0 or length - scope.last_n <= position < length)
        and (
            not ranges or any(start <= position and (end is None or position < end) for start, end in ranges)
        )
        and (not scope.token_ids or token_id in scope.token_ids)
        and token_id not in scope.excluded_token_ids
    )


def _by_schedule(edit: Intervention, since: int) -> float:
    schedule = edit.schedule
    step = since - schedule.start_after
    if step < 0:
        return 0.0
    if step < schedule.ramp:
        return (step + 1) / schedule.ramp
    after = step - max(schedule.ramp - 1, 0)
    return 0.5 ** (after / schedule.half_life) if schedule.half_life else 1.0
