"""What steering does to the next token: distributions of given texts, steered in many ways and not at all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import fmean

import torch
from torch import Tensor

from steerd.engine.study import Progress
from steerd.steering.steering import Steering
from steerd.studies.dose_curve import NextTokenEffect
from steerd.studies.next_token_reader import NextTokenReader
from steerd.studies.output_score import output_score


@dataclass(frozen=True, slots=True)
class NextTokenWish:
    """Prompts, whose next token counts, and control texts, all of whose tokens do.

    `ways` are the steerings to compare, each with one for every prompt and then every control text.
    """

    prompts: tuple[tuple[int, ...], ...]
    controls: tuple[tuple[int, ...], ...]
    ways: tuple[tuple[Steering, ...], ...]


@dataclass(frozen=True, slots=True)
class NextTokens:
    """The feature's promoted tokens, its output score, and by way the effect; no effects while incomplete."""

    complete: bool
    promoted: tuple[int, ...]
    output_score: float
    effects: tuple[NextTokenEffect, ...]


@dataclass(slots=True)
class _Sums:
    """The measures of one way, by text."""

    at_end: list[tuple[float, float, float, float]] = field(default_factory=list)
    side: list[tuple[float, float]] = field(default_factory=list)


class NextTokenStudy:
    """A study of next tokens; in a slice, one text in as many ways as fit."""

    def __init__(self, reader: NextTokenReader, wish: NextTokenWish, *, slice_tokens: int) -> None:
        self._reader = reader
        self._wish = wish
        self._slice_tokens = slice_tokens
        self._promoted = torch.zeros(0, dtype=torch.long)
        self._output_score = 0.0
        self._sums = [_Sums() for _ in wish.ways]
        self._complete = False

    def run(self) -> Iterator[Progress]:
        """The output score, then a text after the other."""
        wish = self._wish
        texts = [*wish.prompts, *wish.controls]
        total = len(texts) * len(wish.ways) + 1
        self._promoted, self._output_score = self._reader.spoken()
        yield Progress(1, total, "forwards")
        done = 1
        for number, text in enumerate(texts):
            is_whole = number >= len(wish.prompts)
            plain = self._reader.unsteered(text, is_whole=is_whole)
            at_once = max(self._slice_tokens // len(text), 1)
            for first in range(0, len(wish.ways), at_once):
                ways = range(first, min(first + at_once, len(wish.ways)))
                steerings = [wish.ways[way][number] for way in ways]
                steered = self._reader.steered(text, steerings, is_whole=is_whole)
                for way, logprobs in zip(ways, steered, strict=True):
                    self._add(self._sums[way], number, logprobs, plain)
                done += len(ways)
                yield Progress(done, total, "forwards")
        self._complete = True

    def result(self) -> NextTokens:
        """The effects, once all are known."""
        effects = tuple(map(_effect, self._sums)) if self._complete else ()
        promoted = tuple(int(token) for token in self._promoted)
        return NextTokens(self._complete, promoted, self._output_score, effects)

    def _add(self, sums: _Sums, number: int, steered: Tensor, plain: Tensor) -> None:
        """Count one text; both log-probabilities are [rows, vocab]."""
        kl = float((steered.exp() * (steered - plain)).sum(dim=-1).mean()) if len(steered) else 0.0
        changed = steered.argmax(dim=-1) != plain.argmax(dim=-1)
        share = float(changed.float().mean()) if len(steered) else 0.0
        if number >= len(self._wish.prompts):
            sums.side.append((kl, share))
            return
        probs = steered[-1].exp()
        gain = float((probs - plain[-1].exp())[self._promoted].sum())
        sums.at_end.append((kl, share, gain, output_score(probs, self._promoted)))


def _effect(sums: _Sums) -> NextTokenEffect:
    at_end = [fmean(column) for column in zip(*sums.at_end, strict=True)]
    side = [fmean(column) for column in zip(*sums.side, strict=True)] or [0.0, 0.0]
    return NextTokenEffect(*at_end, *side)
