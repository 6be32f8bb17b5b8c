"""Steered generation in the plainest form: one request alone, `generate`, and hooks that work row by row.

Written from the words of the wire contract, sharing no code with steerd.steering beyond its data.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import isfinite

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from steerd.engine.request import GenerationRequest
from steerd.engine.sampler import Draw, sample
from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel
from steerd.steering.intervention import (
    Ablate,
    Add,
    Direction,
    FeatureRef,
    Intervention,
    Limit,
    Reconstruct,
    Scale,
    Set,
    Target,
    WholeSae,
)
from steerd.steering.loaded_saes import LoadedSae, LoadedSaes
from steerd.steering.scope import Phase
from tests.engine.plain_conditions import PlainConditions
from tests.engine.plain_ledger import PlainLedger


class PlainRows:
    """Where the interventions of one request apply: asked once for each row, in order of position."""

    def __init__(self, host: HostModel, request: GenerationRequest, ids: list[int]) -> None:
        self._special = host.special_token_ids
        self._request = request
        self._ids = ids
        self._edited: Counter[tuple[int, int]] = Counter()  # rows so far, for at_most
        self.conditions = PlainConditions(host, request, ids)

    def in_force(self, position: int) -> list[tuple[Intervention, int]]:
        """What is done there, each with since when it is."""
        interventions, since = self.conditions.in_force(position)
        return [(intervention, since) for intervention in interventions]

    def strength(self, key: tuple[int, int], intervention: Intervention, position: int) -> float:
        """How strong an intervention is there, 0 for not at all; `key` is its number and since when it is."""
        _, since = key
        if not self._in_scope(intervention, position):
            return 0.0
        strength = self._by_schedule(intervention, position, since)
        if strength == 0 or not self.conditions.holds(intervention.condition, position, is_brought=since > 0):
            return 0.0
        self._edited[key] += 1
        at_most = intervention.schedule.at_most
        return 0.0 if at_most and self._edited[key] > at_most else strength

    def _since(self, intervention: Intervention, position: int) -> int:
        """Rows from the first of the phase."""
        if intervention.scope.phase is Phase.GENERATED:
            return position - len(self._request.prompt_ids)
        return position

    def _in_scope(self, intervention: Intervention, position: int) -> bool:
        scope, token_id = intervention.scope, self._ids[position]
        length = len(self._request.prompt_ids)
        in_prompt = position < length
        if scope.phase is Phase.PROMPT and not in_prompt:
            return False
        if scope.phase is Phase.GENERATED and in_prompt:
            return False
        if token_id in self._special and not scope.include_special_tokens:
            return False
        if scope.first_n and self._since(intervention, position) >= scope.first_n:
            return False
        if scope.last_n and not length - scope.last_n <= position < length:
            return False
        if scope.positions:
            wanted: set[int] = set()
            for stretch in scope.positions:
                start = stretch.start if stretch.start >= 0 else length + stretch.start
                end = 10**4 if stretch.end is None else stretch.end
                wanted |= set(range(start, end if end >= 0 else length + end))
            if position not in wanted:
                return False
        if scope.token_ids and token_id not in scope.token_ids:
            return False
        if token_id in scope.excluded_token_ids:
            return False
        return not scope.roles or self._role(position) in scope.roles

    def _role(self, position: int) -> str | None:
        if position >= len(self._request.prompt_ids):
            return "assistant"
        for span in self._request.steering.roles:
            if position in range(span.start, span.end):
                return span.role
        return None

    def _by_schedule(self, intervention: Intervention, position: int, since: int) -> float:
        schedule = intervention.schedule
        step = min(self._since(intervention, position), position - since) - schedule.start_after
        if step < 0:
            return 0.0
        if step < schedule.ramp:
            return (step + 1) / schedule.ramp
        if not schedule.half_life:
            return 1.0
        at_full_strength = max(schedule.ramp, 1) - 1
        return 0.5 ** ((step - at_full_strength) / schedule.half_life)


class PlainHook:
    """Edits the rows of the request as its interventions at one hook point say, one after the other."""

    def __init__(
        self,
        saes: Sequence[LoadedSae],
        request: GenerationRequest,
        rows: PlainRows,
        point: HookPoint,
        ledger: PlainLedger,
    ) -> None:
        self._saes = {sae.name: sae.sae for sae in saes}
        self._point = point
        self._tests = [test for test in rows.conditions.tests if self._is_here(test.target)]
        edits = (*request.steering.interventions, *_brought(request))
        self._edits_here = any(self._is_here(intervention.target) for intervention in edits)
        self.ledger = ledger
        self._rows = rows
        self.conditions = rows.conditions
        self._position = 0
        self.acts: dict[str, list[Tensor]] = {sae.name: [] for sae in saes}
        self.acts_after: dict[str, list[Tensor]] = {sae.name: [] for sae in saes}

    def __call__(self, rows: Tensor) -> Tensor | None:
        edited = rows.clone()
        for offset, x in enumerate(rows):
            feature_acts = {name: sae.encode(x.unsqueeze(0))[0] for name, sae in self._saes.items()}
            for name, acts in feature_acts.items():
                self.acts[name].append(acts)
            for test in self._tests:
                self._rows.conditions.see(test, float(self._z(test.target, x, feature_acts)))
            edited[offset] = self._edited(x, feature_acts)
            for name, sae in self._saes.items():
                self.acts_after[name].append(sae.encode(edited[offset].unsqueeze(0))[0])
            self._position += 1
        return edited if self._edits_here else None

    def _edited(self, x: Tensor, feature_acts: dict[str, Tensor]) -> Tensor:
        """What policies demand starts from the row as the request's own edits left it."""
        left, asked = self._edited_by(x, feature_acts, demanded=False)
        acts = {name: sae.encode(left.unsqueeze(0))[0] for name, sae in self._saes.items()}
        result, demanded = self._edited_by(left, acts, demanded=True)
        self.ledger.row(self._point, self._position, x, result)
        for intervention, added in (*asked, *demanded):
            z = self._read(intervention.target, x), self._read(intervention.target, result)
            self.ledger.edit(intervention, self._position, float(added.norm() / x.norm()), *z)
        return result

    def _edited_by(
        self, x: Tensor, feature_acts: dict[str, Tensor], *, demanded: bool
    ) -> tuple[Tensor, list[tuple[Intervention, Tensor]]]:
        """The row, and what each intervention added to it."""
        result, keeps_length = x.clone(), False
        done: list[tuple[Intervention, Tensor]] = []
        for number, (intervention, since) in enumerate(self._rows.in_force(self._position)):
            if intervention.source.startswith("policy:") != demanded:
                continue
            if not self._is_here(intervention.target):
                continue
            strength = self._rows.strength((number, since), intervention, self._position)
            if strength == 0:
                continue
            keeps_length |= intervention.preserve_norm
            target = intervention.target
            if isinstance(target, WholeSae):
                assert isinstance(intervention.operation, Reconstruct)
                reconstruction = self._saes[target.sae].decode(feature_acts[target.sae])
                added = strength * (reconstruction - x)
            else:
                z = self._z(target, x, feature_acts)
                response = self._response(intervention) if demanded else 1.0
                added = strength * amount(intervention, z) / response * self._d(target)
            done.append((intervention, added))
            result = result + added
        return result * (x.norm() / result.norm()) if keeps_length else result, done

    def _read(self, target: Target, x: Tensor) -> float:
        """What a target reads on a row; nothing for a whole SAE."""
        if isinstance(target, WholeSae):
            return 0.0
        feature_acts = {name: sae.encode(x.unsqueeze(0))[0] for name, sae in self._saes.items()}
        return float(self._z(target, x, feature_acts))

    def _z(self, target: FeatureRef | Direction, x: Tensor, feature_acts: dict[str, Tensor]) -> Tensor:
        if isinstance(target, Direction):
            return x @ self._d(target)
        return feature_acts[target.sae][target.index]

    def _response(self, intervention: Intervention) -> float:
        """What a policy's edit is divided by, so that it brings what is read of a feature all the way."""
        target = intervention.target
        if not isinstance(target, FeatureRef) or isinstance(intervention.operation, Add):
            return 1.0
        sae = self._saes[target.sae]
        response = float(sae.W_enc[:, target.index] @ sae.W_dec[target.index])
        return response if response >= 0.5 else 1.0

    def _d(self, target: FeatureRef | Direction) -> Tensor:
        if isinstance(target, Direction):
            return torch.tensor(target.values)
        return self._saes[target.sae].W_dec[target.index]

    def _is_here(self, target: Target) -> bool:
        if isinstance(target, Direction):
            return target.hook_point == str(self._point)
        return target.sae in self._saes


def _brought(request: GenerationRequest) -> list[Intervention]:
    """What switches may bring."""
    return [intervention for trigger in request.steering.triggers for intervention in trigger.brings]


def amount(intervention: Intervention, z: Tensor) -> Tensor:
    """What is added along the direction, operation by operation as the wire contract words them."""
    match intervention.operation:
        case Add(strength):
            return torch.tensor(strength)
        case Set(value, only_if_active):
            return torch.tensor(0.0) if only_if_active and z <= 0 else value - z
        case Scale(factor):
            return (factor - 1) * z
        case Ablate():
            return -z
        case Limit(low, high):
            if isfinite(low) and z < low:
                return low - z
            if isfinite(high) and z > high:
                return high - z
            return torch.tensor(0.0)
        case _:
            raise AssertionError(intervention)


class OurSampler(LogitsProcessor):
    """Makes `generate` choose what the request's own seed and parameters choose, and keeps the ids it saw."""

    def __init__(self, request: GenerationRequest, ids: list[int]) -> None:
        self._request = request
        self._ids = ids
        self.logprobs: list[float] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        draw = Draw(self._request.sampling, input_ids.shape[1])
        token_ids, logprobs = sample(scores.float(), [draw])
        self._ids.append(int(token_ids))
        self.logprobs.append(float(logprobs))
        return torch.full_like(scores, float("-inf")).scatter(1, token_ids.unsqueeze(1), 0.0)


@contextmanager
def plain_hooks(
    host: HostModel, saes: LoadedSaes, request: GenerationRequest, ids: list[int]
) -> Iterator[list[PlainHook]]:
    """Inside the block the host's forwards, over the rows of `ids` in order, are steered as it says."""
    rows, ledger = PlainRows(host, request, ids), PlainLedger(request, saes)
    edits = (*request.steering.interventions, *_brought(request))
    targets = [edit.target for edit in edits] + [test.target for test in rows.conditions.tests]
    points = {sae.hook_point for sae in saes}
    points |= {HookPoint.parse(target.hook_point) for target in targets if isinstance(target, Direction)}
    hooks = {
        point: PlainHook([sae for sae in saes if sae.hook_point == point], request, rows, point, ledger)
        for point in points
    }
    handles = [host.attach(point, hook) for point, hook in hooks.items()]
    try:
        yield list(hooks.values())
    finally:
        for handle in handles:
            handle.remove()


def acts_of(hooks: Sequence[PlainHook]) -> dict[str, Tensor]:
    """By SAE, the activations [rows, d_sae] of the rows that ran."""
    return {name: torch.stack(acts) for hook in hooks for name, acts in hook.acts.items()}


def acts_after_of(hooks: Sequence[PlainHook]) -> dict[str, Tensor]:
    """The same after all edits."""
    return {name: torch.stack(acts) for hook in hooks for name, acts in hook.acts_after.items()}


class Reference:
    """What a request gives alone: generated ids, log-probabilities, and by SAE acts [positions, d_sae].

    `fired` are the triggers that did, each with the position, and `is_stopped` says whether one ended it.
    """

    def __init__(self, host: HostModel, saes: LoadedSaes, request: GenerationRequest) -> None:
        prompt = list(request.prompt_ids)
        ids = list(prompt)
        sampler = OurSampler(request, ids)
        with plain_hooks(host, saes, request, ids) as hooks:
            host.model.generate(
                torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                max_new_tokens=request.sampling.max_new_tokens,
                do_sample=False,
                eos_token_id=sorted(host.eos_token_ids) or None,
                pad_token_id=0,
                logits_processor=LogitsProcessorList([sampler]),
            )
        num_rows = len(ids) - 1
        conditions = hooks[0].conditions
        stops_at = conditions.stops_at(num_rows)
        self.is_stopped = stops_at is not None
        num_tokens = len(ids) - len(prompt) if stops_at is None else max(stops_at + 1 - len(prompt), 0)
        self.token_ids = ids[len(prompt) : len(prompt) + num_tokens]
        self.logprobs = sampler.logprobs[:num_tokens]
        self.fired = [
            fired for fired in conditions.fired(num_rows) if stops_at is None or fired[1] <= stops_at
        ]
        self.acts, self.acts_after = acts_of(hooks), acts_after_of(hooks)
        # What of a prompt is run past the row that ends the text depends on how it is cut.
        is_cut = stops_at is not None and stops_at < len(prompt) - 1
        num_rows = num_rows if stops_at is None else stops_at + 1
        self.receipt = None if is_cut else hooks[0].ledger.receipt(num_rows)
