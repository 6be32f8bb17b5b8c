"""What really happens to a metric when something is taken out of a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from steerd.host.hook_point import HookPoint
from steerd.studies.attribution.scored_prompt import Edit, ScoredPrompt


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What one node adds to a row of the prompt: `vector` [d_model] at a position of a hook point."""

    hook_point: HookPoint
    position: int
    vector: Tensor


def ablation_effects(prompt: ScoredPrompt, parts: Sequence[Part]) -> list[float]:
    """By how much the metric falls when each part alone is taken out and all that follows is computed anew.

    One forward of a copy for each part, and one that is left whole.
    """
    edits: dict[HookPoint, Edit] = {
        hook_point: partial(_take_out, parts, hook_point)
        for hook_point in {part.hook_point for part in parts}
    }
    with torch.no_grad():
        values = prompt.values(1 + len(parts), edits)
    effects: list[float] = (values[0] - values[1:]).tolist()
    return effects


def _take_out(parts: Sequence[Part], hook_point: HookPoint, rows: Tensor) -> Tensor:
    edited = rows.clone()
    for copy, part in enumerate(parts, start=1):
        if part.hook_point == hook_point:
            edited[copy, :, part.position] -= part.vector
    return edited
