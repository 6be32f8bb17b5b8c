"""What really happens to a metric when something is taken out of a row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
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


@dataclass(slots=True)
class Ablations:
    """Takes each part alone out of the prompt, in forwards of at most `copies` copies.

    Parts of one hook point go together, as they share all layers before it. What comes first is the first of
    the parts, and what fits in with it.
    """

    prompt: ScoredPrompt
    parts: Sequence[Part]
    copies: int
    effects: dict[int, float] = field(default_factory=dict)
    """By how much the metric falls, by the number of a part that was taken out."""
    _whole: dict[HookPoint, float] = field(default_factory=dict)  # the metric in forwards of `copies` copies

    @property
    def num_slices(self) -> int:
        """How many slices `run` has."""
        of_point = Counter(part.hook_point for part in self.parts).values()
        return sum(1 + -(-max(number - self.copies + 1, 0) // self.copies) for number in of_point)

    def run(self) -> Iterator[None]:
        """Fill in `effects`, a forward a slice."""
        waiting = list(range(len(self.parts)))
        while waiting:
            point = self.parts[waiting[0]].hook_point
            beside = [number for number in waiting if self.parts[number].hook_point == point]
            self._take_out(point, beside)
            waiting = [number for number in waiting if number not in self.effects]
            yield

    def _take_out(self, point: HookPoint, numbers: Sequence[int]) -> None:
        """Take out the first of these parts of one hook point, beside a copy left whole where none is known
        from as large a forward: rounding depends on the size."""
        is_known = point in self._whole and len(numbers) >= self.copies
        tried = numbers[: self.copies - (not is_known)]
        parts = [self.parts[number] for number in tried]
        values = _values(self.prompt, parts if is_known else [None, *parts])
        whole = self._whole[point] if is_known else values.pop(0)
        if 1 + len(tried) == self.copies and not is_known:
            self._whole[point] = whole
        self.effects.update((number, whole - value) for number, value in zip(tried, values, strict=True))


def ablation_effects(prompt: ScoredPrompt, parts: Sequence[Part]) -> list[float]:
    """By how much the metric falls when each part alone is taken out and all that follows is computed anew.

    One forward of a copy for each part, and one that is left whole.
    """
    whole, *values = _values(prompt, [None, *parts])
    return [whole - value for value in values]


def _values(prompt: ScoredPrompt, parts: Sequence[Part | None]) -> list[float]:
    """The metric of a copy for each part without it; None leaves the copy whole."""
    edits: dict[HookPoint, Edit] = {
        part.hook_point: partial(_take_out, parts, part.hook_point) for part in parts if part is not None
    }
    with torch.no_grad():
        values: list[float] = prompt.values(len(parts), edits).tolist()
    return values


def _take_out(parts: Sequence[Part | None], hook_point: HookPoint, rows: Tensor) -> Tensor:
    edited = rows.clone()
    for copy, part in enumerate(parts):
        if part is not None and part.hook_point == hook_point:
            edited[copy, :, part.position] -= part.vector
    return edited
