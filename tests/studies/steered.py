"""Steered texts for studies that run without an engine, and what a plain steered forward gives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from steerd.engine.steered_forward import SteeredForward, SteeredText
from steerd.engine.study import Study
from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel
from steerd.selftest.naive_hook import steered_naively
from steerd.selftest.probes import Probe
from steerd.steering.intervention import Intervention
from steerd.steering.loaded_saes import LoadedSaes
from steerd.steering.steering import Steering
from steerd.steering.step_plan import StepPlanner

# Sums in another order, through layers whose weights are far from small.
TOLERANCE = 1e-4


@contextmanager
def steered_forward(host: HostModel, saes: LoadedSaes) -> Iterator[SteeredForward]:
    planner = StepPlanner(host, saes, 0)
    try:
        yield SteeredForward(host, planner)
    finally:
        planner.close()


def steered(
    prompt_ids: Sequence[int], *interventions: Intervention, continuation: Sequence[int] = ()
) -> SteeredText:
    return SteeredText(
        prompt_ids=tuple(prompt_ids),
        continuation=tuple(continuation),
        steering=Steering(interventions=interventions),
    )


def run(study: Study[Any]) -> Any:
    """The whole of a study."""
    progress = list(study.run())
    done = [each.done for each in progress]
    assert done == sorted(done)
    assert done[-1] == progress[-1].total
    return study.result()


def plain_logits(host: HostModel, saes: LoadedSaes, text: SteeredText) -> Tensor:
    """Logits [tokens, vocab] of one forward under the naive hook."""
    with naively(host, saes, text), torch.no_grad():
        return host.model(torch.tensor([text.token_ids]), use_cache=False).logits[0].float()


def plain_rows(host: HostModel, saes: LoadedSaes, text: SteeredText, point: HookPoint) -> Tensor:
    """What leaves a hook point [tokens, d_model] under the naive hook, its own edits there included."""
    with naively(host, saes, text):
        return host.activations(torch.tensor([text.token_ids]), None, [point])[point][0]


def naively(host: HostModel, saes: LoadedSaes, text: SteeredText) -> Any:
    # The probe's last token has no row, the text's has one.
    probe = Probe("text", text.prompt_ids, (*text.continuation, 0), text.steering.interventions)
    return steered_naively(host, saes, probe)
