"""How steering_effect looks at a host: it writes steered texts with steerd, and reads them unsteered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from benchmarks.engine_monitor import started_monitor
from benchmarks.outcome import Outcome
from steerd.config import EngineConfig
from steerd.engine.engine import Engine
from steerd.engine.request import GenerationRequest, SamplingParams
from steerd.host.host_model import Hook, HostModel
from steerd.sae.sae_file import SaeBundle
from steerd.steering.intervention import Add, FeatureRef, Intervention
from steerd.steering.loaded_saes import LoadedSae, LoadedSaes
from steerd.steering.steering import Steering

TEMPERATURE = 0.7

Texts = Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True)
class Push:
    """Steering by one feature: `strength` times its direction, in the SAE's activation units."""

    feature: int
    strength: float


UNSTEERED = Push(0, 0.0)


class SteeredWriter:
    """Continues prompts with steerd's engine, all in one batch; each prompt has a seed of its own."""

    def __init__(self, host: HostModel, bundle: SaeBundle) -> None:
        saes = LoadedSaes(host)
        self._sae_name = saes.add("starter", bundle).name
        config = EngineConfig(max_waiting_requests=4096)
        self._monitor, _ = started_monitor(host.name, [self._sae_name], config)
        self._engine = Engine(host, saes, config, self._monitor)
        self._engine.start()

    def write(self, prompts: Texts, pushes: Sequence[Push], num_new: int) -> Iterator[tuple[Push, Texts]]:
        """The continuations [prompts] of every push, as they are finished; a special token may end them."""
        outcomes = {push: [Outcome() for _ in prompts] for push in pushes}
        for push, of_push in outcomes.items():
            for number, (prompt, outcome) in enumerate(zip(prompts, of_push, strict=True)):
                self._engine.submit(self._request(push, number, prompt, num_new), outcome)
        for push, of_push in outcomes.items():
            for outcome in of_push:
                outcome.wait()
            yield push, [outcome.token_ids for outcome in of_push]

    def close(self) -> None:
        """Stop the engine."""
        self._engine.stop()
        self._monitor.stop()

    def _request(self, push: Push, number: int, prompt: Sequence[int], num_new: int) -> GenerationRequest:
        intervention = Intervention(
            target=FeatureRef(self._sae_name, push.feature), operation=Add(push.strength)
        )
        return GenerationRequest(
            id=f"{push.feature}-{push.strength}-{number}",
            prompt_ids=tuple(prompt),
            sampling=SamplingParams(
                max_new_tokens=num_new, temperature=TEMPERATURE, top_p=1.0, top_k=0, seed=number
            ),
            steering=Steering(interventions=(intervention,) if push.strength else ()),
        )


@dataclass(frozen=True, slots=True)
class ReadText:
    """Continuations as the unsteered host reads them, special tokens left out.

    `acts` [tokens, features]; `surprise`: the mean of -log p of a token, natural log.
    """

    token_ids: list[int]
    acts: Tensor
    surprise: float


class UnsteeredReader:
    """The host without steerd's engine: what it makes of a text, and what a push does to its next token."""

    def __init__(self, host: HostModel, bundle: SaeBundle) -> None:
        self._host = host
        self._sae: LoadedSae = LoadedSaes(host).add("starter", bundle)
        self._special = torch.tensor(sorted(host.special_token_ids))

    @torch.no_grad()
    def read(self, prompts: Texts, continuations: Texts, features: list[int]) -> ReadText:
        """Run the unsteered host over prompts and continuations; see ReadText."""
        ids, mask = _padded([[*one, *other] for one, other in zip(prompts, continuations, strict=True)])
        lengths = torch.tensor([len(prompt) for prompt in prompts]).unsqueeze(1)
        counted = mask.bool() & (torch.arange(ids.shape[1]) >= lengths) & ~torch.isin(ids, self._special)
        rows: list[Tensor] = []
        with self._hooked(rows.append):
            logits = self._host.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        acts = self._sae.sae.feature_acts(rows[0].float(), features).view(*ids.shape, -1)
        logprobs = logits[:, :-1].log_softmax(dim=-1).gather(2, ids[:, 1:].unsqueeze(2)).squeeze(2)
        return ReadText(
            token_ids=ids[counted].tolist(),
            acts=acts[counted],
            surprise=-float(logprobs[counted[:, 1:]].mean()),
        )

    @torch.no_grad()
    def next_logprobs(self, prompts: Texts, pushes: Sequence[Push]) -> Tensor:
        """Log-probabilities [prompts, vocab] of the token after each prompt, under a push for each.

        The prompt's ordinary rows are pushed, as the engine does it.
        """
        ids, mask = _padded(prompts)
        ordinary = (mask.bool() & ~torch.isin(ids, self._special)).unsqueeze(2)  # [prompts, longest, 1]
        strengths = torch.tensor([[push.strength] for push in pushes])
        directions = strengths * self._sae.sae.W_dec[[push.feature for push in pushes]]  # [prompts, d_model]
        change = (ordinary * directions.unsqueeze(1)).flatten(0, 1)  # [rows, d_model]
        with self._hooked(lambda resid: resid + change):
            logits: Tensor = self._host.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        last = mask.sum(dim=1) - 1
        return logits[torch.arange(len(ids)), last].log_softmax(dim=-1)

    @contextmanager
    def _hooked(self, hook: Hook) -> Iterator[None]:
        handle = self._host.attach(self._sae.hook_point, hook)
        try:
            yield
        finally:
            handle.remove()


def _padded(texts: Texts) -> tuple[Tensor, Tensor]:
    """Ids and mask [texts, longest], padded on the right."""
    rows = [torch.tensor(text) for text in texts]
    ids = pad_sequence(rows, batch_first=True)
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    return ids, mask
