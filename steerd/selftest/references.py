"""What the plain host says of the probes: one forward each, alone, steered by the naive hooks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from steerd.host.host_model import HostModel
from steerd.selftest.naive_hook import steered_naively
from steerd.selftest.probes import Probe
from steerd.steering.loaded_saes import LoadedSaes
from steerd.steering.receipt import Receipt


@dataclass(frozen=True, slots=True)
class Reference:
    """Of one probe: the log-probabilities [continuation] of its continuation, float64 on the CPU, what its
    steering did, on rows how long by intervention, and which triggers fired at which positions."""

    logprobs: Tensor
    receipt: Receipt
    lengths: tuple[float, ...]
    fired: frozenset[tuple[str, int]]


class References:
    """By probe. Made before an engine takes over the host's attention, and kept."""

    def __init__(self, host: HostModel, saes: LoadedSaes, probes: Iterable[Probe]) -> None:
        self._by_name = {probe.name: _reference(host, saes, probe) for probe in probes}

    def __getitem__(self, probe: Probe) -> Reference:
        return self._by_name[probe.name]


@torch.no_grad()
def _reference(host: HostModel, saes: LoadedSaes, probe: Probe) -> Reference:
    ids = torch.tensor([probe.row_ids], device=host.device)
    with steered_naively(host, saes, probe) as record:
        output = host.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    logits: Tensor = output.logits[0, len(probe.prompt_ids) - 1 :].float()  # [continuation, vocab]
    chosen = torch.tensor(probe.continuation, device=host.device).unsqueeze(1)
    logprobs = logits.log_softmax(dim=-1).gather(1, chosen).squeeze(1).double().cpu()
    return Reference(logprobs, record.receipt(), record.lengths(), record.fired())
