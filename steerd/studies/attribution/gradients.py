"""How a metric changes with the rows of a prompt: one forward and one backward."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from steerd.errors import FieldViolation, InvalidRequest
from steerd.host.hook_point import HookPoint
from steerd.studies.attribution.scored_prompt import Edit, ScoredPrompt


@dataclass(frozen=True, slots=True, eq=False)
class RowGradients:
    """Of one forward: the logits [copies, texts, seq, vocab] and the metric [copies], and at each hook point
    the rows [tokens, d_model] of the first copy and the metric's gradient in them [copies, tokens, d_model].
    """

    logits: Tensor
    values: Tensor
    rows: Mapping[HookPoint, Tensor]
    gradients: Mapping[HookPoint, Tensor]


@contextmanager
def differentiable() -> Iterator[None]:
    """Gradients, inside of the engine's inference mode too."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def row_gradients(
    prompt: ScoredPrompt,
    hook_points: Sequence[HookPoint],
    *,
    copies: int = 1,
    edits: Mapping[HookPoint, Edit] | None = None,
    of: Callable[[Tensor], Tensor] | None = None,
) -> RowGradients:
    """The gradient of the metric in what leaves each of these hook points, after the edits there.

    With several texts a row of the prompt is one variable that all share, so that their gradients are summed.
    `of` puts another value of each copy, computed when the logits are there, in the metric's place. Raises
    InvalidRequest for a host that has no gradients.
    """
    if not prompt.host.has_gradients:
        problem = "every method needs gradients, which this host's 8-bit weights do not have"
        raise InvalidRequest([FieldViolation("method", problem)])
    recorded: dict[HookPoint, Tensor] = {}
    every = dict(edits or {})
    for hook_point in hook_points:
        every[hook_point] = partial(_record, recorded, hook_point, every.get(hook_point))
    with differentiable():
        logits = prompt.logits(copies, every)
        values = (of or prompt.values_of)(logits)
        gradients = _gradients_of(values.sum(), [recorded[point] for point in hook_points])
    return RowGradients(
        logits=logits.detach(),
        values=values.detach(),
        rows={point: recorded[point].detach()[0, 0] for point in hook_points},
        gradients={point: g.sum(dim=1) for point, g in zip(hook_points, gradients, strict=True)},
    )


def _gradients_of(value: Tensor, inputs: Sequence[Tensor]) -> list[Tensor]:
    """The gradient in each input, zero where the value does not depend on it."""
    found = torch.autograd.grad(value, inputs, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]


def _record(
    recorded: dict[HookPoint, Tensor], hook_point: HookPoint, edit: Edit | None, rows: Tensor
) -> Tensor:
    edited = rows if edit is None else edit(rows)
    if not edited.requires_grad:
        edited = edited.detach().clone().requires_grad_()  # the host may reuse the memory
    recorded[hook_point] = edited
    return edited
