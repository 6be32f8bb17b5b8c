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
    """Of one forward: the logits [copies, texts, scored, vocab] and the metric [copies], and at each hook
    point the rows [tokens, d_model] of the first copy and the metric's gradient in them [copies, tokens,
    d_model].
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


@dataclass(frozen=True, slots=True, eq=False)
class RecordedForward:
    """A forward that gradients can be taken of: its logits [copies, texts, scored, vocab] and, at each hook
    point, what left it, [copies, texts, tokens, d_model]."""

    logits: Tensor
    rows: Mapping[HookPoint, Tensor]

    def gradients_of(self, felt: Callable[[], Tensor], *, keep: bool = False) -> dict[HookPoint, Tensor]:
        """The gradient of a number felt of the forward, at each hook point [copies, tokens, d_model].

        Zero where it does not depend on the rows. To be asked once only unless `keep` is set.

        With several texts a row of the prompt is one variable that all share: their gradients are summed.
        """
        inputs = list(self.rows.values())
        found: Sequence[Tensor | None] = [None] * len(inputs)
        with differentiable():
            value = felt()
            if value.requires_grad:
                found = torch.autograd.grad(value, inputs, allow_unused=True, retain_graph=keep)
        pairs = zip(self.rows.items(), found, strict=True)
        return {point: (torch.zeros_like(x) if g is None else g).sum(dim=1) for (point, x), g in pairs}


def recorded_forward(
    prompt: ScoredPrompt,
    hook_points: Sequence[HookPoint],
    *,
    copies: int = 1,
    edits: Mapping[HookPoint, Edit] | None = None,
) -> RecordedForward:
    """Run copies of a prompt with these edits, and record what leaves the hook points after them.

    Raises InvalidRequest for a host that has no gradients.
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
    return RecordedForward(logits, {point: recorded[point] for point in hook_points})


def row_gradients(
    prompt: ScoredPrompt,
    hook_points: Sequence[HookPoint],
    *,
    copies: int = 1,
    edits: Mapping[HookPoint, Edit] | None = None,
) -> RowGradients:
    """The gradient of the metric in what leaves each of these hook points, after the edits there.

    Raises InvalidRequest for a host that has no gradients.
    """
    forward = recorded_forward(prompt, hook_points, copies=copies, edits=edits)
    gradients = forward.gradients_of(lambda: prompt.values_of(forward.logits).sum())
    return RowGradients(
        logits=forward.logits.detach(),
        values=prompt.values_of(forward.logits.detach()),
        rows={point: rows.detach()[0, 0] for point, rows in forward.rows.items()},
        gradients=gradients,
    )


def _record(
    recorded: dict[HookPoint, Tensor], hook_point: HookPoint, edit: Edit | None, rows: Tensor
) -> Tensor:
    edited = rows if edit is None else edit(rows)
    if not edited.requires_grad:
        edited = edited.detach().clone().requires_grad_()  # the host may reuse the memory
    recorded[hook_point] = edited
    return edited
