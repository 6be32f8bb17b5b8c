"""Steered generation in the plainest form: one request alone, `generate`, and a hook that encodes all."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from steerd.engine.request import GenerationRequest
from steerd.engine.sampler import Draw, sample
from steerd.host.host_model import HostModel
from steerd.steering.intervention import Ablate, Add, Intervention, Scale, Set
from steerd.steering.loaded_saes import LoadedSae, LoadedSaes
from steerd.steering.scope import Phase


class PlainHook:
    """Edits the rows of the request as the interventions of one SAE say, from its whole encoding."""

    def __init__(
        self,
        host: HostModel,
        sae: LoadedSae,
        interventions: Sequence[Intervention],
        ids: list[int],
        prompt: int,
    ) -> None:
        self._host = host
        self._sae = sae.sae
        self._interventions = [i for i in interventions if i.target.sae == sae.name]
        self._ids = ids
        self._prompt_length = prompt
        self._position = 0
        self.acts: list[Tensor] = []

    def __call__(self, rows: Tensor) -> Tensor | None:
        feature_acts = self._sae.encode(rows)
        self.acts.extend(feature_acts)
        edited = rows.clone()
        for offset in range(len(rows)):
            for intervention in self._interventions:
                if self._covers(intervention, self._position + offset):
                    z = feature_acts[offset, intervention.target.index]
                    edited[offset] += amount(intervention, z) * self._sae.W_dec[intervention.target.index]
        self._position += len(rows)
        return edited if self._interventions else None

    def _covers(self, intervention: Intervention, position: int) -> bool:
        scope = intervention.scope
        if not scope.include_special_tokens and self._ids[position] in self._host.special_token_ids:
            return False
        in_prompt = position < self._prompt_length
        return scope.phase is Phase.ALL or (scope.phase is Phase.PROMPT) == in_prompt


def amount(intervention: Intervention, z: Tensor) -> Tensor:
    """What is added along the direction, operation by operation as the wire contract words them."""
    match intervention.operation:
        case Add(strength):
            return torch.tensor(strength)
        case Set(value):
            return value - z
        case Scale(factor):
            return (factor - 1) * z
        case Ablate():
            return -z


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


class Reference:
    """What a request gives alone: generated ids, log-probabilities, and by SAE acts [positions, d_sae]."""

    def __init__(self, host: HostModel, saes: LoadedSaes, request: GenerationRequest) -> None:
        prompt = list(request.prompt_ids)
        ids = list(prompt)
        hooks = {sae.name: PlainHook(host, sae, request.interventions, ids, len(prompt)) for sae in saes}
        handles = [host.attach(sae.hook_point, hooks[sae.name]) for sae in saes]
        sampler = OurSampler(request, ids)
        try:
            host.model.generate(
                torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                max_new_tokens=request.sampling.max_new_tokens,
                do_sample=False,
                eos_token_id=sorted(host.eos_token_ids) or None,
                pad_token_id=0,
                logits_processor=LogitsProcessorList([sampler]),
            )
        finally:
            for handle in handles:
                handle.remove()
        self.token_ids = ids[len(prompt) :]
        self.logprobs = sampler.logprobs
        self.acts = {name: torch.stack(hook.acts) for name, hook in hooks.items()}
