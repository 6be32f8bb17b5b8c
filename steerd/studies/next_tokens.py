"""What steering does to the next token: distributions of given texts, steered in many ways and not at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import torch
from torch import Tensor

from steerd.engine.steered_forward import SteeredForward
from steerd.engine.study import Progress
from steerd.host.host_model import HostModel
from steerd.steering.intervention import FeatureRef
from steerd.steering.loaded_saes import LoadedSaes
from steerd.steering.steering import Steering
from steerd.studies.dose_curve import NextTokenEffect
from steerd.studies.output_score import OutputScorer, last_layer, output_score


@dataclass(frozen=True, slots=True)
class NextTokenWish:
    """Prompts, whose next token counts, and control texts, all of whose tokens do; ids of a neutral text.

    `ways` are the steerings to compare, each with one for every prompt and then every control text; `plain`
    is what stays in force without any.
    """

    feature: FeatureRef
    neutral: tuple[int, ...]
    prompts: tuple[tuple[int, ...], ...]
    controls: tuple[tuple[int, ...], ...]
    ways: tuple[tuple[Steering, ...], ...]
    plain: Steering


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

    def __init__(
        self,
        host: HostModel,
        saes: LoadedSaes,
        forward: SteeredForward,
        wish: NextTokenWish,
        *,
        slice_tokens: int,
    ) -> None:
        self._host = host
        self._loaded = saes.get(wish.feature.sae)
        self._forward = forward
        self._wish = wish
        self._slice_tokens = slice_tokens
        self._special = torch.tensor(sorted(host.special_token_ids), dtype=torch.long)
        self._promoted = torch.zeros(0, dtype=torch.long)
        self._output_score = 0.0
        self._sums = [_Sums() for _ in wish.ways]
        self._complete = False

    def run(self) -> Iterator[Progress]:
        """The output score, then a text after the other."""
        wish = self._wish
        texts = [*wish.prompts, *wish.controls]
        total = len(texts) * len(wish.ways) + 1
        scorer = OutputScorer(self._host, self._loaded, self._forward, wish.neutral, wish.plain)
        promoted = scorer.promoted([wish.feature.index])
        (self._promoted,) = promoted
        (self._output_score,) = scorer.scores([wish.feature.index], promoted)
        yield Progress(1, total, "forwards")
        done = 1
        for number, text in enumerate(texts):
            plain = self._logprobs(text, [wish.plain], number)[0]
            at_once = max(self._slice_tokens // len(text), 1)
            for first in range(0, len(wish.ways), at_once):
                ways = range(first, min(first + at_once, len(wish.ways)))
                steered = self._logprobs(text, [wish.ways[way][number] for way in ways], number)
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

    def _logprobs(self, text: Sequence[int], steerings: Sequence[Steering], number: int) -> Tensor:
        """Log-probabilities [texts, rows, vocab]: a prompt's last row, a control text's ordinary ones."""
        rows = last_layer(self._host, self._forward, text, steerings)
        rows = rows[:, -1:] if number < len(self._wish.prompts) else rows[:, self._ordinary(text)]
        logits = self._host.unembed(rows.flatten(0, 1))
        return logits.log_softmax(dim=-1).view(*rows.shape[:2], -1).cpu()

    def _ordinary(self, text: Sequence[int]) -> Tensor:
        kept = ~torch.isin(torch.tensor(text), self._special)
        kept[0] = False
        return kept

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
