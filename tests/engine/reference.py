"""Steered generation in the plainest form: one request alone, `generate`, and hooks that work row by row.

Written from the words of the wire contract, sharing no code with steerd.steering beyond its data.
"""

from __future__ import annotations

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
    Intervention,
    Limit,
    Reconstruct,
    Scale,
    Set,
    WholeSae,
)
from steerd.steering.loaded_saes import LoadedSae, LoadedSaes
from steerd.steering.scope import Phase


class PlainRows:
    """Where the interventions of one request apply: asked once for each row, in order of position."""

    def __init__(self, host: HostModel, request: GenerationRequest, ids: list[int]) -> None:
        self._special = host.special_token_ids
        self._request = request
        self._ids = ids
        self._edited = [0] * len(request.steering.interventions)  # rows so far, for at_most

    def strength(self, number: int, position: int) -> float:
        """How strong the intervention of that number is there, 0 for not at all."""
        intervention = self._request.steering.interventions[number]
        if not self._in_scope(intervention, position):
            return 0.0
        schedule = intervention.schedule
        strength = self._by_schedule(intervention, position)
        if strength > 0 and schedule.at_most:
            self._edited[number] += 1
            if self._edited[number] > schedule.at_most:
                return 0.0
        return strength

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
                end = 10**6 if stretch.end is None else stretch.end
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

    def _by_schedule(self, intervention: Intervention, position: int) -> float:
        schedule = intervention.schedule
        step = self._since(intervention, position) - schedule.start_after
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
        self, saes: Sequence[LoadedSae], request: GenerationRequest, rows: PlainRows, point: HookPoint
    ) -> None:
        self._saes = {sae.name: sae.sae for sae in saes}
        self._interventions = [
            (number, intervention)
            for number, intervention in enumerate(request.steering.interventions)
            if self._is_here(intervention, point)
        ]
        self._rows = rows
        self._position = 0
        self.acts: dict[str, list[Tensor]] = {sae.name: [] for sae in saes}

    def __call__(self, rows: Tensor) -> Tensor | None:
        edited = rows.clone()
        for offset, x in enumerate(rows):
            feature_acts = {name: sae.encode(x.unsqueeze(0))[0] for name, sae in self._saes.items()}
            for name, acts in feature_acts.items():
                self.acts[name].append(acts)
            edited[offset] = self._edited(x, feature_acts)
            self._position += 1
        return edited if self._interventions else None

    def _edited(self, x: Tensor, feature_acts: dict[str, Tensor]) -> Tensor:
        result, keeps_length = x.clone(), False
        for number, intervention in self._interventions:
            strength = self._rows.strength(number, self._position)
            if strength == 0:
                continue
            keeps_length |= intervention.preserve_norm
            target = intervention.target
            if isinstance(target, WholeSae):
                assert isinstance(intervention.operation, Reconstruct)
                reconstruction = self._saes[target.sae].decode(feature_acts[target.sae])
                result = result + strength * (reconstruction - x)
            elif isinstance(target, Direction):
                d = torch.tensor(target.values)
                result = result + strength * amount(intervention, x @ d) * d
            else:
                z, d = feature_acts[target.sae][target.index], self._saes[target.sae].W_dec[target.index]
                result = result + strength * amount(intervention, z) * d
        return result * (x.norm() / result.norm()) if keeps_length else result

    def _is_here(self, intervention: Intervention, point: HookPoint) -> bool:
        target = intervention.target
        if isinstance(target, Direction):
            return target.hook_point == str(point)
        return target.sae in self._saes


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
    rows = PlainRows(host, request, ids)
    targets = [intervention.target for intervention in request.steering.interventions]
    points = {sae.hook_point for sae in saes}
    points |= {HookPoint.parse(target.hook_point) for target in targets if isinstance(target, Direction)}
    hooks = {
        point: PlainHook([sae for sae in saes if sae.hook_point == point], request, rows, point)
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


class Reference:
    """What a request gives alone: generated ids, log-probabilities, and by SAE acts [positions, d_sae]."""

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
        self.token_ids = ids[len(prompt) :]
        self.logprobs = sampler.logprobs
        self.acts = acts_of(hooks)
