"""EvaluateSteering: what steering by a feature does at each strength, by texts that the engine writes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from statistics import fmean

from steerd.engine.request import GenerationRequest
from steerd.engine.steered_forward import SteeredForward
from steerd.engine.study import Progress
from steerd.errors import Unavailable
from steerd.host.text import encode_prompt
from steerd.server.composed_study import ComposedStudy
from steerd.server.dose_requests import DoseRequests, DoseWish, Push
from steerd.server.dose_texts import NEUTRAL
from steerd.server.engine_texts import EngineTexts
from steerd.server.parse import RequestParser
from steerd.server.reply_score import Scored
from steerd.studies.dose_curve import (
    DoseCurve,
    DosePoint,
    TextEffect,
    dose_score,
    mean_next_token,
    mean_text,
    repetition,
)
from steerd.studies.next_token_reader import NextTokenReader
from steerd.studies.next_tokens import NextTokens, NextTokenStudy, NextTokenWish


class Dosing(ComposedStudy[DoseCurve]):
    """One evaluation: the given strengths, then some between the last safe one and the next."""

    def __init__(
        self,
        texts: EngineTexts,
        forward: SteeredForward,
        parser: RequestParser,
        wish: DoseWish,
        *,
        slice_tokens: int,
    ) -> None:
        """Raises InvalidRequest or Forbidden when one of the strengths may not be asked for."""
        super().__init__()
        self._texts = texts
        self._host = parser.host
        self._wish = wish
        self._requests = DoseRequests(parser, wish)
        self._slice_tokens = slice_tokens
        largest = [
            self._requests.written(each, wish.prompts[0], 0) for each in self._pushes(wish.strengths[-1])
        ]
        self._reader = NextTokenReader(
            parser.host,
            parser.saes.get(wish.feature.sae),
            wish.feature.index,
            forward,
            encode_prompt(parser.host.tokenizer, NEUTRAL),
            largest[0].steering.unsteered(),
        )

    async def run(self, tell: Callable[[Progress], None]) -> DoseCurve:
        """The curve; of a part of the strengths when stopped."""
        wish, points = self._wish, list[DosePoint]()
        total = 1 + len(wish.strengths) + wish.refinements
        found = await self._next_tokens([])
        ((plain, sample),) = await self._text_effects([Push(wish.feature, 0.0)], found.promoted)
        tell(Progress(1, total, "strengths"))
        strength = _next_strength(wish, points)
        while strength is not None:
            point = await self.unless_stopped(self._point(strength, plain))
            if point is None:
                break
            points = sorted([*points, point], key=lambda each: each.strength)
            tell(Progress(1 + len(points), total, "strengths"))
            strength = _next_strength(wish, points)
        return DoseCurve(
            complete=strength is None,
            feature=wish.feature,
            output_score=found.output_score,
            promoted=tuple(self._decoded([token]) for token in found.promoted),
            plain=plain,
            plain_sample=sample,
            points=tuple(points),
            controls=tuple(feature for feature, _ in wish.control_features),
        )

    def _pushes(self, strength: float) -> list[Push]:
        """The feature at a strength, and the control features at the same length."""
        controls = [Push(feature, strength * factor) for feature, factor in self._wish.control_features]
        return [Push(self._wish.feature, strength), *controls]

    async def _next_tokens(self, pushes: Sequence[Push]) -> NextTokens:
        """What the pushes do to next tokens, in their order; without any, what the feature promotes."""
        wish = await asyncio.to_thread(self._next_token_wish, pushes)
        found = await self._texts.study(NextTokenStudy(self._reader, wish, slice_tokens=self._slice_tokens))
        if not found.complete:
            raise Unavailable("the server is draining", reason="DRAINING")
        return found

    def _next_token_wish(self, pushes: Sequence[Push]) -> NextTokenWish:
        wish = self._wish
        texts = [*wish.prompts, *wish.controls]
        made = [[self._requests.written(push, text, 0) for text in texts] for push in pushes]
        ids = [request.prompt_ids for request in made[0]] if made else []
        return NextTokenWish(
            prompts=tuple(ids[: len(wish.prompts)]),
            controls=tuple(ids[len(wish.prompts) :]),
            ways=tuple(tuple(request.steering for request in of_push) for of_push in made),
        )

    async def _point(self, strength: float, plain: TextEffect) -> DosePoint:
        """All that is measured at one strength."""
        wish, pushes = self._wish, self._pushes(strength)
        found = await self._next_tokens(pushes)
        (text, sample), *controls = await self._text_effects(pushes, found.promoted)
        next_token, *control_next_tokens = found.effects
        fluency, score = dose_score(text, plain)
        return DosePoint(
            strength=strength,
            feature_max=strength / wish.feature_max if wish.feature_max else 0.0,
            resid_norm=strength / wish.resid_norm,
            next_token=next_token,
            text=text,
            control=mean_text(effect for effect, _ in controls) if controls else None,
            control_next_token=mean_next_token(control_next_tokens) if controls else None,
            fluency=fluency,
            score=score,
            is_safe=wish.bounds.holds(text, plain, next_token.side_kl),
            sample=sample,
        )

    async def _text_effects(
        self, pushes: Sequence[Push], promoted: Sequence[int]
    ) -> list[tuple[TextEffect, str]]:
        """By push, what the answers to all prompts are like, and the first of them."""
        requests, prompts = self._requests, self._wish.prompts
        made = [requests.written(push, text, seed) for push in pushes for seed, text in enumerate(prompts)]
        answers = await self._texts.write(made)
        reads = await self._texts.read(
            requests.read(request, answer) for request, answer in zip(made, answers, strict=True)
        )
        effects = [
            self._answer_effect(request, answer, read, promoted)
            for request, answer, read in zip(made, answers, reads, strict=True)
        ]
        firsts = range(0, len(made), len(prompts))
        return [
            (mean_text(effects[first : first + len(prompts)]), self._decoded(answers[first]))
            for first in firsts
        ]

    def _answer_effect(
        self, request: GenerationRequest, answer: Sequence[int], read: Scored, promoted: Sequence[int]
    ) -> TextEffect:
        """Of one answer; special tokens count in nothing unless there are no others."""
        ordinary = [n for n, token in enumerate(answer) if token not in self._host.special_token_ids]
        values = _activations(read, len(request.prompt_ids))
        active = [values[n] for n in ordinary if n in values]
        most = self._wish.feature_max or self._wish.resid_norm
        words, logprobs = [answer[n] for n in ordinary], read.logprobs
        return TextEffect(
            concept=min(max(active, default=0.0) / most, 1.0),
            active_share=fmean(value > 0 for value in active) if active else 0.0,
            promoted_share=fmean(word in promoted for word in words) if words else 0.0,
            surprise=-fmean(logprobs[n] for n in ordinary or range(len(answer))),
            repetition=repetition(words),
        )

    def _decoded(self, token_ids: Sequence[int]) -> str:
        return str(self._host.tokenizer.decode(list(token_ids), skip_special_tokens=True))


def _activations(read: Scored, first: int) -> Mapping[int, float]:
    """By place in the answer, which begins at position `first`, the watched feature's activation."""
    readings = (reading for chunk in read.chunks for reading in chunk.readings)
    return {each.position - first: each.values[0] for each in readings if each.position >= first}


def _next_strength(wish: DoseWish, points: Sequence[DosePoint]) -> float | None:
    """The next one asked for, or one nearer to where the answers begin to suffer; None at the end."""
    if len(points) < len(wish.strengths):
        return wish.strengths[len(points)]
    if len(points) >= len(wish.strengths) + wish.refinements:
        return None
    if not points[0].is_safe:
        return points[0].strength / 2
    for safe, other in pairwise(points):
        if not other.is_safe:
            return (safe.strength + other.strength) / 2
    return None
