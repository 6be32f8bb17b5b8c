"""What steering does to the next token: distributions of given texts, steered in many ways and not at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

import torch
from torch import Tensor

from steerd.engine.steered_forward import SteeredForward, SteeredText
from steerd.engine.study import Progress
from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel
from steerd.steering.intervention import Add, FeatureRef, Intervention
from steerd.steering.loaded_saes import LoadedSaes
from steerd.steering.scope import Phase, Scope
from steerd.steering.steering import Steering
from steerd.studies.dose_curve import NextTokenEffect

PROMOTED = 20
"""How many of the tokens that a feature promotes most stand for what it says, as in arXiv 2505.20063."""

_AMPLIFIED = 10.0  # times the largest activation of the row, as in the same paper


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
        self._promoted = self._most_promoted()
        self._output_score = self._neutral_score()
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

    def _most_promoted(self) -> Tensor:
        """The tokens that the feature's direction makes likeliest by itself, through the host's own head."""
        direction = self._loaded.sae.W_dec[self._wish.feature.index]
        return self._host.unembed(direction.unsqueeze(0))[0].topk(PROMOTED).indices.cpu()

    def _neutral_score(self) -> float:
        """The output score: the feature raised by ten times the largest activation of the last row there."""
        neutral, point = self._wish.neutral, self._loaded.hook_point
        row = self._host.activations(torch.tensor([neutral]), None, [point])[point][0, -1]
        largest = float(self._loaded.sae.encode(row).max())
        scope = Scope(phase=Phase.PROMPT, last_n=1, include_special_tokens=True)
        raised = Intervention(target=self._wish.feature, operation=Add(_AMPLIFIED * largest), scope=scope)
        plain = self._wish.plain
        steering = replace(plain, interventions=(raised, *plain.interventions))
        logits = self._last_logits(neutral, [steering])
        return self._score(logits[0].softmax(dim=-1))

    def _score(self, probs: Tensor) -> float:
        """The probability of the likeliest promoted token, times how near its rank [vocab] is to the top."""
        best = float(probs[self._promoted].max())
        rank = int((probs > best).sum())
        return best * (1 - rank / len(probs))

    def _last_logits(self, text: Sequence[int], steerings: Sequence[Steering]) -> Tensor:
        rows = self._last_layer(text, steerings)  # [texts, tokens, d_model]
        return self._host.unembed(rows[:, -1]).cpu()

    def _logprobs(self, text: Sequence[int], steerings: Sequence[Steering], number: int) -> Tensor:
        """Log-probabilities [texts, rows, vocab]: a prompt's last row, a control text's ordinary ones."""
        rows = self._last_layer(text, steerings)
        rows = rows[:, -1:] if number < len(self._wish.prompts) else rows[:, self._ordinary(text)]
        logits = self._host.unembed(rows.flatten(0, 1))
        return logits.log_softmax(dim=-1).view(*rows.shape[:2], -1).cpu()

    def _last_layer(self, text: Sequence[int], steerings: Sequence[Steering]) -> Tensor:
        """Rows [texts, tokens, d_model] after the last layer."""
        found: list[Tensor] = []
        point = HookPoint(self._host.num_layers - 1, "resid_post")
        texts = [SteeredText(prompt_ids=tuple(text), steering=steering) for steering in steerings]
        self._forward.run(texts, after={point: lambda rows: found.append(rows.clone())})
        return found[0].view(len(texts), len(text), -1)

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
        sums.at_end.append((kl, share, gain, self._score(probs)))


def _effect(sums: _Sums) -> NextTokenEffect:
    at_end = [fmean(column) for column in zip(*sums.at_end, strict=True)]
    side = [fmean(column) for column in zip(*sums.side, strict=True)] or [0.0, 0.0]
    return NextTokenEffect(*at_end, *side)
