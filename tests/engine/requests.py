"""Requests of many kinds, for the oracles."""

from __future__ import annotations

from collections.abc import Sequence

from steerd.engine.request import Capture, GenerationRequest, SamplingParams
from steerd.steering.intervention import Ablate, Add, FeatureRef, Intervention, Operation, Scale, Set
from steerd.steering.scope import Phase, Scope
from steerd.steering.steering import Steering

# Prompts of the byte tokenizer: 11 and 54 tokens.
SHORT = tuple(b"Hello there")
LONG = tuple(b"The sea, the sea! " * 3)


def sampling(
    max_new_tokens: int = 12, temperature: float = 0.0, top_p: float = 1.0, top_k: int = 0, seed: int = 0
) -> SamplingParams:
    return SamplingParams(
        max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, top_k=top_k, seed=seed
    )


def edit(
    sae: str, index: int, operation: Operation, phase: Phase = Phase.ALL, *, special: bool = False
) -> Intervention:
    scope = Scope(phase=phase, include_special_tokens=special)
    return Intervention(target=FeatureRef(sae, index), operation=operation, scope=scope)


def greedy_request(
    request_id: str,
    prompt_ids: Sequence[int],
    max_new_tokens: int = 8,
    *interventions: Intervention,
    capture: Capture | None = None,
) -> GenerationRequest:
    return GenerationRequest(
        id=request_id,
        prompt_ids=tuple(prompt_ids),
        sampling=sampling(max_new_tokens),
        steering=Steering(interventions=interventions),
        capture=capture or Capture(),
    )


def mixed_requests(
    prompts: Sequence[Sequence[int]], saes: Sequence[str], strength: float, num_new: int
) -> list[GenerationRequest]:
    """Ten requests over the prompts: every operation, phase and sampling, two SAEs, some not steered."""
    first, second = saes
    greedy = sampling(num_new)
    wishes: list[tuple[SamplingParams, list[Intervention]]] = [
        (greedy, []),
        (greedy, [edit(first, 3, Add(strength))]),
        (greedy, [edit(second, 5, Set(2 * strength), Phase.GENERATED)]),
        (greedy, [edit(first, 7, Scale(3.0), Phase.PROMPT), edit(second, 9, Add(-strength))]),
        (greedy, [edit(first, index, Ablate()) for index in range(16)]),
        (sampling(num_new, temperature=1.0, seed=11), [edit(second, 2, Add(strength), Phase.PROMPT)]),
        (sampling(num_new, temperature=0.7, top_p=0.8, seed=12), []),
        (
            sampling(num_new, temperature=1.3, top_k=20, seed=13),
            [edit(first, 1, Set(strength), special=True)],
        ),
        (greedy, [edit(first, 3, Add(strength), special=True), edit(first, 3, Add(strength))]),
        (sampling(num_new, temperature=0.9, top_p=0.9, top_k=40, seed=14), [edit(second, 30, Ablate())]),
    ]
    return [
        GenerationRequest(
            id=f"request-{number}",
            prompt_ids=tuple(prompts[number % len(prompts)]),
            sampling=params,
            steering=Steering(interventions=tuple(interventions)),
            capture=Capture(
                watch=(FeatureRef(first, 3), FeatureRef(second, 5)),
                top_k=4,
                top_k_saes=(first,),
                include_prompt=number % 2 == 0,
                after_edit=number % 4 < 2,
            )
            if number % 3
            else Capture(),
        )
        for number, (params, interventions) in enumerate(wishes)
    ]
