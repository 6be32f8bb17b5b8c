"""What interventions do to texts that they are not for."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace

import torch

from steerd.engine.steered_forward import SteeredText
from steerd.steering.intervention import Intervention
from steerd.studies.answers.last_rows import LastRows
from steerd.studies.answers.result import ControlEffect
from steerd.studies.answers.wish import ControlText


def control_effect(
    rows: LastRows, text: ControlText, interventions: Sequence[Intervention]
) -> Generator[None, None, ControlEffect]:
    """Of interventions on one text, besides what steers it anyway; each yield ends a slice.

    Raises Forbidden where a policy ends the text.
    """
    steering = replace(text.steering, interventions=(*text.steering.interventions, *interventions))
    both = rows.of(
        [SteeredText(prompt_ids=text.prompt_ids, steering=each) for each in (text.steering, steering)]
    )
    yield
    mixed = both.transpose(0, 1).flatten(0, 1)  # each row without, then with the interventions
    kl, changed = [], []
    for logits in rows.logits(mixed):
        plain, edited = logits.log_softmax(dim=-1).view(-1, 2, logits.shape[-1]).unbind(dim=1)
        kl.append((plain.exp() * (plain - edited)).sum(dim=-1))
        changed.append(plain.argmax(dim=-1) != edited.argmax(dim=-1))
        yield
    divergence = torch.cat(kl).clamp(min=0)  # rounding may take equal distributions below 0
    return ControlEffect(
        tokens=len(text.prompt_ids),
        mean_kl=float(divergence.mean()),
        max_kl=float(divergence.max()),
        changed=float(torch.cat(changed).float().mean()),
    )
